"""A real line learns what its product looks like from its first frames."""

import numpy as np
import pytest
from daemon_process import Line, wait_until

from daemon.ingest.publisher import FramePublisher

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def part(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 140, (90, 120, 3), dtype=np.uint8)


def test_first_frames_become_tiled_references_the_next_thresholds_then_come_verdicts(
    line: Line,
) -> None:
    line.settings["categories"] = {
        "fabric": {
            "class_name": "woven fabric",
            "references": 3,
            "learn_frames": 10,
            "min_defect_px": 2,
        }
    }
    line.settings["model"] |= {"references_dir": "banks"}
    line.start()

    def send(first: int, count: int) -> None:
        with FramePublisher(line.endpoint, "cam1", category="fabric", mode="connect") as camera:
            assert camera.wait_for_subscriber(20)
            before = line.count("SELECT count(*) FROM inspection")
            for seed in range(first, first + count):
                camera.send(part(seed))
            wait_until(
                lambda: line.count("SELECT count(*) FROM inspection") == before + count, "all rows"
            )

    send(0, 3)
    wait_until(lambda: list((line.folder / "banks").glob("*.safetensors")), "the bank")
    send(10, 14)
    assert line.stop() == 0

    rows = line.query(
        "SELECT m.name, i.verdict = 'LEARNING', count(*) FROM inspection i "
        "JOIN model_version m ON m.id = i.model_version_id GROUP BY 1, 2 ORDER BY min(i.id)"
    )
    (without, _, n_first), (bank, is_learning, n_learnt), (same, is_still, n_judged) = rows
    assert without.endswith("+refs-none")
    assert (is_learning, n_learnt, n_first + n_judged) == (1, 10, 7)
    assert n_first >= 3  # a frame may arrive before the bank that is already on disk is in force
    assert same == bank
    assert not is_still
    made = line.query(
        "SELECT m.name, c.n_frames FROM calibration c JOIN model_version m "
        "ON m.id = c.model_version_id"
    )
    assert made == [(bank, 10)]
    assert line.count("SELECT count(*) FROM event WHERE kind = 'references_learnt'") == 1
