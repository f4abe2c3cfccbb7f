"""Whole frames of a running line: on the disk as they were sent, also after a kill."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from daemon_process import Line, wait_until

from daemon.ingest.publisher import FramePublisher
from daemon.storage.frame_folder import digest
from zsad.image_files import load_image

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def kept(line: Line) -> dict[int, Path]:
    """Files that have a row, by the frame's number; each is what its row says."""
    found = {}
    for seq, path, sha256 in line.query("SELECT seq, path, sha256 FROM frame_file"):
        found[seq] = line.folder / "whole" / path
        assert digest(found[seq].read_bytes()) == sha256
    return found


def test_frames_are_kept_as_sent_and_every_row_has_its_file_after_a_kill(line: Line) -> None:
    line.settings["model"] = {"commissioning": True}  # every frame is LEARNING
    line.settings["frames"] = {"dir": "whole"}
    line.start()
    files = [cv2.imencode(".jpg", picture(seed))[1].tobytes() for seed in range(20)]
    with FramePublisher(
        line.endpoint, "cam1", category="fabric", mode="connect", encoding="raw"
    ) as camera:
        assert camera.wait_for_subscriber(10)
        for file in files:
            camera.send_encoded(file, "jpeg")
        camera.send(picture(99))
        wait_until(lambda: line.count("SELECT count(*) FROM frame_file") == 21, "21 kept frames")
        wait_until(lambda: line.status().counters["frames_kept"] == 21, "the status file")
        for file in files:
            camera.send_encoded(file, "jpeg")
        wait_until(lambda: line.count("SELECT count(*) FROM frame_file") > 21, "one more")
        line.kill()

    found = kept(line)
    assert [found[seq].read_bytes() for seq in range(20)] == files
    assert found[20].suffix == ".png"
    assert np.array_equal(load_image(found[20])[:, :, ::-1], picture(99))  # sent as BGR8
    line.start()
    assert line.status().counters["frames_not_kept"] == 0
    assert line.stop() == 0
    assert kept(line).keys() >= found.keys()
