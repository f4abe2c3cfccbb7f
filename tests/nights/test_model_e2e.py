"""A real daemon changes its model under load: no frame is lost, and every row belongs together."""

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from daemon_process import Line, wait_until

from daemon.config.categories import CategoryConfig
from daemon.config.storage import StorageConfig
from daemon.core import Calibration
from daemon.ingest.publisher import FramePublisher
from daemon.storage import repository
from daemon.storage.database import open_database, write_transaction
from daemon.training.golden import write_golden
from daemon.training.model_store import ModelStore
from zsad.build import build_detector
from zsad.checkpoint import new_card, save_checkpoint
from zsad.predictor import load_predictor

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    sockets = Path(tempfile.mkdtemp(prefix="zsad-"))
    line = Line(tmp_path, sockets)
    yield line
    if line.process is not None:
        line.kill()
    shutil.rmtree(sockets)


def surface(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(128, 40, (120, 160)).astype(np.float32), (5, 5), 1.5)
    return cv2.merge([np.clip(noise, 0, 255).astype(np.uint8)] * 3)


def another_model(folder: Path) -> Path:
    """The shipped detector at another temperature, with golden images."""
    torch.set_num_threads(1)
    shipped = load_predictor(None, "cpu").detector
    config = shipped.config.model_copy(update={"temperature": 0.012})
    detector = build_detector(config, shipped.backbone)
    card = new_card(
        detector,
        data=(),
        metrics={},
        seed=0,
        git_revision=None,
        created=datetime.now(UTC),
        training_command="a test",
    )
    save_checkpoint(folder, detector, card)
    predictor = load_predictor(folder, "cpu")
    write_golden(predictor, [(surface(1), "woven fabric")], folder / "golden")
    return folder


def calibrate(line: Line, version: str) -> None:
    """Thresholds that none of the surfaces reaches."""
    recipe = CategoryConfig(class_name="woven fabric").recipe
    made = Calibration(
        "fabric",
        version,
        0.98,
        0.99,
        0.9,
        40,
        0.05,
        0.01,
        True,
        "test",
        datetime.now(UTC),
        recipe=recipe,
    )
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), line.folder, {})
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection,
            name=version,
            method="clip_zero_shot",
            backbone="compact-v1",
            card_json="{}",
            now=made.created_utc,
        )
        repository.add_calibration(connection, made)
    engine.dispose()


def test_a_candidate_is_tried_and_promoted_under_load_without_losing_a_frame(line: Line) -> None:
    config = ["--config", str(line.config_path)]
    line.settings["frames"] = {"dir": "frames"}
    line.settings["training"] = {"models_dir": "models"}
    line.settings["categories"]["fabric"] |= {"learn_frames": 10}
    line.start()
    store = ModelStore(line.folder / "models", None)
    version = store.add(another_model(line.folder / "made"))
    calibrate(line, version)
    with FramePublisher(line.endpoint, "cam1", category="fabric", mode="connect") as camera:
        assert camera.wait_for_subscriber(10)
        sent, rows = 0, "SELECT count(*) FROM inspection"

        def send_until(condition: object, what: str) -> None:
            nonlocal sent

            def step() -> bool:
                nonlocal sent
                while sent - line.count(rows) < 4:  # a line with moments to spare
                    camera.send(surface(sent % 10))
                    sent += 1
                return bool(condition())

            wait_until(step, what, 90)

        learnt = "SELECT count(*) FROM calibration WHERE source LIKE 'first%'"
        send_until(lambda: line.count(learnt) == 1, "thresholds of the first model")
        line.command("model", "try", version, *config, "--frames", "20")
        send_until(lambda: line.status().model_version == version, "the other model")
        after = sent
        send_until(lambda: sent > after + 40, "frames of the other model")
        wait_until(lambda: line.count(rows) == sent, "every frame")

    assert line.stop() == 0
    assert line.count("SELECT count(*) FROM frame_loss") == 0
    assert line.count("SELECT count(*) FROM inspection WHERE verdict = 'ERROR'") == 0
    used = line.query(
        "SELECT m.name, count(DISTINCT i.ng_threshold), min(i.seq), max(i.seq), "
        "sum(i.verdict = 'LEARNING'), count(DISTINCT c.id) FROM inspection i "
        "JOIN model_version m ON m.id = i.model_version_id "
        "LEFT JOIN calibration c ON c.model_version_id = m.id AND c.ng_threshold = i.ng_threshold "
        "GROUP BY 1 ORDER BY 3"
    )
    (first, one_a, _, last_of_first, _, own_a), (second, one_b, first_of_second, _, n, own_b) = used
    assert (first, second) == (store.base_version(), version)
    assert (one_a, one_b, own_a, own_b, n) == (1, 1, 1, 1, 0), "each row has its model's thresholds"
    assert last_of_first + 1 == first_of_second
    assert line.count("SELECT count(*) FROM shadow_score WHERE shadow_verdict <> 'ERROR'") >= 20
    kinds = [kind for (kind,) in line.query("SELECT kind FROM event WHERE kind LIKE 'model%'")]
    assert kinds == ["model_proposed", "model_promoted", "model_swapped"]
