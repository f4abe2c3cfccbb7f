"""A line with labelled frames and good images, ready for a night; no camera and no daemon."""

import contextlib
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import yaml
from night_pictures import draw
from sqlalchemy import Engine

from daemon.config.line import Config
from daemon.config.storage import StorageConfig
from daemon.config_file import read_config
from daemon.core import FrameId, FrameInfo, Inspection, KeptFrame, Label, LabelVerdict, Verdict
from daemon.labels.mask import encode_mask
from daemon.storage import frame_files, frame_folder, labels, repository, revision
from daemon.storage.database import open_database, write_transaction
from daemon.storage.frame_files import KeptFile
from daemon.training.model_store import ModelStore
from zsad.backbone_loading import load_backbone
from zsad.build import build_detector
from zsad.checkpoint import new_card, read_card, save_checkpoint
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.image_files import load_mask

EARLIER = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LINE = "L1"


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame and what a person said of it."""

    image: Path
    is_ng: bool
    mask: Path | None = None


class NightLine:
    """Configuration, database and folders under one root."""

    def __init__(
        self,
        root: Path,
        class_names: Mapping[str, str],
        *,
        categories: Mapping[str, object] | None = None,
        database: Path | None = None,
        checkpoint: Path | None = None,
        recipes: Mapping[str, Mapping[str, object]] | None = None,
        **training: object,
    ) -> None:
        """Of `class_names`, product -> noun.

        Args:
            categories: Keys that all categories have.
            database: A migrated one to begin with.
            checkpoint: Of the configured model; None is the embedded one.
            recipes: By method; each becomes a file that the configuration names.
        """
        self.root = root
        self.frames_dir = root / "frames"
        self.frames_dir.mkdir(parents=True)
        self.models_dir = Path(str(training.pop("models_dir", root / "models")))
        facts = {
            "line": LINE,
            "timezone": "Europe/Berlin",
            "run_dir": str(root / "run"),
            "sources": [{"endpoint": f"ipc://{root}/f", "mode": "bind"}],
            "cameras": {"cam1": {}},
            "categories": {
                name: {"class_name": noun, **(categories or {})}
                for name, noun in class_names.items()
            },
            "storage": {"url": "sqlite:///zsad.db"},
            "shifts": [{"name": "all", "start": "06:00"}],
            "model": {
                "device": "cpu",
                "references_dir": str(root / "references"),
                **({"checkpoint": str(checkpoint)} if checkpoint else {}),
            },
            "frames": {"dir": str(self.frames_dir)},
            "training": {
                "models_dir": str(self.models_dir),
                "recipes": {method: f"nights/{method}.yaml" for method in recipes or {}},
                **training,
            },
        }
        for method, recipe in (recipes or {}).items():
            self.write_recipe(method, recipe)
        self.file = root / "daemon.yaml"
        self.file.write_text(yaml.safe_dump(facts), encoding="utf-8")
        self.config: Config = read_config(self.file).config
        if database is not None:
            shutil.copy(database, root / "zsad.db")
        self.engine: Engine = open_database(StorageConfig(url="sqlite:///zsad.db"), root, {})
        if database is None:
            revision.upgrade(self.engine)
        (root / "run").mkdir()
        self._seq = 0
        store = ModelStore(self.models_dir, checkpoint)
        self.base_version = store.base_version()
        card = read_card(store.base)
        with write_transaction(self.engine) as connection:
            repository.ensure_model_version(
                connection,
                name=self.base_version,
                method=card.method.method,
                backbone=card.backbone.name,
                card_json=card.model_dump_json(),
                now=EARLIER,
            )

    def close(self) -> None:
        self.engine.dispose()

    def write_recipe(self, method: str, recipe: Mapping[str, object]) -> None:
        """The file that the configuration names for this method."""
        file = self.root / "nights" / f"{method}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(dict(recipe)), encoding="utf-8")

    def label(self, category: str, shown: Sequence[Shown]) -> list[int]:
        """Store frames of parts of their own, each labelled; the ids of their inspections."""
        ids = []
        for one in shown:
            inspection = self._inspection(category, one.is_ng)
            kept = self._kept(inspection, one.image)
            with write_transaction(self.engine) as connection:
                repository.add_results(connection, LINE, [inspection, kept])
                number = labels.match_names(
                    connection, LINE, [labels.frame_name(inspection.info.frame_id)]
                )
                (inspection_id,) = next(iter(number.values()))
                mask = None if one.mask is None else encode_mask(load_mask(one.mask))
                label = Label(
                    inspection_id,
                    LabelVerdict.NG if one.is_ng else LabelVerdict.OK,
                    "ana",
                    EARLIER,
                    "cli",
                    mask_png=mask,
                )
                labels.add_labels(connection, LINE, [label])
            ids.append(inspection_id)
        return ids

    def keep_good(self, category: str, images: Sequence[Path]) -> None:
        """Copies of images as `zsad calibrate` keeps them."""
        folder = self.frames_dir / LINE / "calibration" / category
        folder.mkdir(parents=True, exist_ok=True)
        kept = []
        for image in images:
            target = folder / image.name
            shutil.copy(image, target)
            content = target.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            kept.append(KeptFile(str(target.relative_to(self.frames_dir)), len(content), digest))
        with write_transaction(self.engine) as connection:
            frame_files.add_calibration_images(connection, LINE, category, kept, EARLIER)

    def _inspection(self, category: str, is_ng: bool) -> Inspection:
        self._seq += 1
        at = EARLIER + timedelta(seconds=self._seq)
        info = FrameInfo(
            FrameId("cam1", 1, self._seq),
            category,
            at,
            at,
            0.0,
            part_id=f"P{self._seq}",
        )
        return Inspection(
            info=info,
            verdict=Verdict.NG if is_ng else Verdict.REVIEW,
            model_version=self.base_version,
            decided_utc=at,
            frame_to_verdict_s=0.05,
            width_px=320,
            height_px=320,
            pred_score=0.5,
            map_peak=0.5,
        )

    def _kept(self, inspection: Inspection, image: Path) -> KeptFrame:
        info = inspection.info
        content = image.read_bytes()
        suffix = "png" if image.suffix == ".png" else "jpg"
        path = frame_folder.frame_path(LINE, info.frame_id, info.received_utc, suffix)
        frame_folder.write_durably(self.frames_dir, path, content)
        return KeptFrame(
            info.frame_id,
            info.category,
            inspection.verdict,
            info.received_utc,
            str(path),
            len(content),
            hashlib.sha256(content).hexdigest(),
        )


def model_of(method: MethodConfig, folder: Path) -> Path:
    """A fresh model of a method on the compact backbone at a side of 96 pixels, for speed."""
    backbone = load_backbone(BackboneConfig(name="compact-v1", image_size=96))
    detector = build_detector(method, backbone)
    card = new_card(
        detector,
        data=(),
        metrics={},
        seed=0,
        git_revision=None,
        created=EARLIER,
        training_command="none",
    )
    save_checkpoint(folder, detector, card)
    return folder


def grain_line(
    folder: Path,
    database: Path,
    checkpoint: Path,
    others: Mapping[str, str] | None = None,
    categories: Mapping[str, object] | None = None,
    **training: object,
) -> NightLine:
    """12 + 12 labelled frames of a product that plain scoring cannot judge, and 24 good ones.

    Args:
        others: More products, with their nouns.
        categories: Keys that all categories have.
    """
    few = {"synthetic": 0, "replay_views": 4, "steps": 3, "batch_size": 4}
    made = NightLine(
        folder / "line",
        {"grain": "grain", **(others or {})},
        database=database,
        checkpoint=checkpoint,
        recipes={"linear_probe": {"synthetic": 0}, "coop": few},
        categories=categories,
        **training,
    )
    ok = draw(folder / "pictures", 36, is_ng=False, seed=1)
    ng = draw(folder / "pictures", 12, is_ng=True, seed=1)
    made.label("grain", [Shown(file, False) for file in ok[:12]])
    made.label("grain", [Shown(file, True) for file in ng])
    made.keep_good("grain", ok[12:])
    return made


def two_product_line(folder: Path, database: Path, checkpoint: Path) -> NightLine:
    """As `grain_line`, with a second product whose labels are noise: a night makes it worse."""
    made = grain_line(folder, database, checkpoint, {"noise": "plate"})
    pictures = draw(folder / "noise", 36, is_ng=False, seed=3)
    made.label("noise", [Shown(file, number % 2 == 1) for number, file in enumerate(pictures[:24])])
    made.keep_good("noise", pictures[24:])
    return made


def fill_up(filler: Path) -> None:
    """Take the rest of a disk."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # full
        while True:
            file.write(bytes(4096))


def textile(root: Path, n: int, rng: np.random.Generator) -> tuple[list[Path], list[Path]]:
    """`n` sound and `n` defective images of ROOT/test/good and ROOT/test/defect, drawn."""
    found = []
    for kind in ("good", "defect"):
        files = sorted((root / "test" / kind).iterdir())
        found.append([files[i] for i in rng.permutation(len(files))[:n]])
    return found[0], found[1]
