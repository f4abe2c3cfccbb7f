"""Small real models on disk, and a line's parts that keep them, joined as in the daemon."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from open_clip.model import CLIP
from sqlalchemy import Engine, text

from daemon.config.categories import CategoryConfig
from daemon.config.detector import ModelConfig
from daemon.config.line import Config
from daemon.config.storage import StorageConfig
from daemon.core import (
    Calibration,
    Event,
    Frame,
    FrameId,
    FrameInfo,
    Image,
    Inspection,
    Severity,
    ShadowScore,
)
from daemon.health import Health
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.detector_slot import DetectorSlot
from daemon.inspection.inspector import Inspector
from daemon.inspection.model_swap import ModelSwap
from daemon.inspection.shadow import Shadow
from daemon.model_keeper import ModelKeeper
from daemon.model_rows import known_of
from daemon.model_start import open_first_model
from daemon.storage import repository
from daemon.storage.database import write_transaction
from daemon.training.golden import write_golden
from daemon.training.model_store import ModelStore
from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.checkpoint import new_card, save_checkpoint
from zsad.config.backbone import BackboneConfig
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.predictor import Predictor, load_predictor

START = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
LINE = "line1"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 4, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"layers": 4, "width": 32, "heads": 2, "context_length": 77, "vocab_size": 49408},
}


def save_backbone(folder: Path, seed: int = 7) -> BackboneConfig:
    """A tiny random CLIP that a card can name."""
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = CLIP(**TINY).state_dict()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    return BackboneConfig(name=f"local-dir:{folder}")


def save_model(folder: Path, backbone: Backbone, temperature: float) -> str:
    """A detector whose scores depend on `temperature`, with golden images; its version."""
    detector = build_detector(CLIPZeroShotConfig(temperature=temperature), backbone)
    card = new_card(
        detector,
        data=(),
        metrics={"fabric/image_AUROC": 0.9},
        seed=0,
        git_revision=None,
        created=START,
        training_command="zsad train nightly",
    )
    version = save_checkpoint(folder, detector, card)
    golden = [(picture(number), "woven fabric") for number in (1, 2)]
    write_golden(load_predictor(folder, "cpu"), golden, folder / "golden")
    return version


def picture(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def thresholds(
    version: str,
    review: float,
    ng: float,
    category: str = "fabric",
    recipe: str = CategoryConfig(class_name="woven fabric").recipe,
) -> Calibration:
    return Calibration(
        category, version, review, ng, 0.5, 100, 0.05, 0.01, True, "test", START, recipe=recipe
    )


class NightLine:
    """A line with a base model, its parts joined as `line_parts` does; time passes by hand."""

    def __init__(self, folder: Path, engine: Engine, config: Config) -> None:
        self.folder, self.engine, self.config = folder, engine, config
        assert config.training is not None
        self.store = ModelStore(config.training.models_dir, config.model.checkpoint)
        self.now = START
        self.seq = 0
        self.notes: list[str] = []
        self.told: list[Inspection] = []
        self.stored: list[object] = []
        self.waiting = False

    def start(self) -> None:
        """As the daemon starts."""
        config = self.config
        slot = DetectorSlot(
            config.model,
            config.categories,
            max_batch=4,
            predictor=open_first_model(config, self.engine, self.now),
        )
        self.slot = slot
        self.register(slot.version)
        with self.engine.connect() as connection:
            versions = {
                name: slot.version_of(name, each) for name, each in config.categories.items()
            }
            known = known_of(connection, LINE, config.categories, versions)
        self.book = CalibrationBook(
            model_version=slot.version,
            categories=config.categories,
            calibrations=known.calibrations,
            learned=known.learned,
            now=lambda: self.now,
            variants=versions,
        )
        self.health = Health(
            line=LINE,
            cameras=config.cameras,
            categories=config.categories,
            database="",
            queue_limit=8,
        )
        self.shadow = Shadow(
            sink=self.stored.append,
            has_frames=lambda: self.waiting,
            beat=lambda: None,
            clock=lambda: 0.0,
            now=lambda: self.now,
        )
        assert config.training is not None
        self.keeper = ModelKeeper(
            config,
            config.training,
            self.store,
            self.engine,
            slot=slot,
            swap=ModelSwap(slot, self.book),
            shadow=self.shadow,
            beat=lambda: None,
            health=self.health,
            note=lambda kind, detail, severity: self.notes.append(f"{kind}: {detail}"),
        )
        self.inspector = Inspector(
            infer=slot.infer,
            categories=config.categories,
            storage=StorageConfig(url="sqlite://", thumbnails=()),
            book=self.book,
            clock=lambda: 0.0,
            now=lambda: self.now,
            on_batch=lambda frames: None,
            tell=self.told.append,
            banks=slot,
        )
        self.inspect = self.keeper.around_inspect(self.inspector.inspect)

    def register(self, version: str) -> None:
        with write_transaction(self.engine) as connection:
            repository.ensure_model_version(
                connection, name=version, method="m", backbone="b", card_json="{}", now=self.now
            )

    def calibrate(self, version: str, review: float, ng: float) -> None:
        self.register(version)
        with write_transaction(self.engine) as connection:
            repository.add_calibration(connection, thresholds(version, review, ng))

    def turn(self, seeds: Sequence[int] = (), *, idle: bool = True) -> list[Inspection]:
        """One turn of the inspection thread with a batch of pictures."""
        self.keeper.between(idle)
        batch = []
        for seed in seeds:
            info = FrameInfo(FrameId("cam1", 7, self.seq), "fabric", self.now, self.now, 0.0)
            batch.append(Frame(info, picture(seed)))
            self.seq += 1
        results = self.inspect(batch) if batch else []
        self.stored += results
        return [result for result in results if isinstance(result, Inspection)]

    def commit(self) -> None:
        """As the writer does."""
        kinds = (Inspection, ShadowScore, Event)
        with write_transaction(self.engine) as connection:
            repository.add_results(
                connection, LINE, [item for item in self.stored if isinstance(item, kinds)]
            )
        self.stored.clear()

    def look(self, seconds: float = 5.0) -> None:
        """One look of the main thread, some seconds later, once the loader is done."""
        self.keeper._loader._thread.submit(lambda: None).result(timeout=60)
        self.now += timedelta(seconds=seconds)
        self.keeper.look(self.now)

    def look_until(self, condition: Callable[[], object], what: str) -> None:
        for _ in range(10):
            self.look()
            self.turn()
            if condition():
                return
        raise AssertionError(f"in vain: {what}")

    def query(self, sql: str) -> list[tuple[object, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def events(self, severity: Severity) -> list[str]:
        rows = self.query(f"SELECT kind, detail FROM event WHERE severity = '{severity.value}'")
        return [f"{kind}: {detail}" for kind, detail in rows]

    def close(self) -> None:
        self.keeper.close()
        self.slot.close()


def config_of(folder: Path, base: Path, **training: object) -> Config:
    """A line with one category and a place for models."""
    return Config.model_validate(
        {
            "line": LINE,
            "timezone": "Europe/Berlin",
            "run_dir": folder / "run",
            "sources": [{"endpoint": "ipc:///nobody", "mode": "bind"}],
            "cameras": {"cam1": {}},
            "categories": {"fabric": {"class_name": "woven fabric"}},
            "storage": {"url": "sqlite:///zsad.db"},
            "shifts": [{"name": "day", "start": "06:00"}],
            "model": ModelConfig(checkpoint=base, device="cpu"),
            "frames": {"dir": folder / "frames"},
            "training": {"models_dir": folder / "models", "shadow_frames": 20, **training},
        }
    )


def said(predictor: Predictor, seed: int) -> float:
    """What a model says of a picture."""
    return predictor.predict([picture(seed)], ["woven fabric"])[0][0]
