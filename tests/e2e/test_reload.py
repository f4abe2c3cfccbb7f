"""A running line takes over a changed configuration, and loses no frame meanwhile."""

import json
import signal
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from daemon_process import Line, wait_until

from daemon.cli.main import main
from daemon.ingest.publisher import FramePublisher
from zsad.predictor import load_predictor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def texture(seed: int) -> np.ndarray:
    """A woven-looking surface, different for each seed, without a defect."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(128, 40, (120, 160)).astype(np.float32), (5, 5), 1.5)
    return cv2.merge([np.clip(noise, 0, 255).astype(np.uint8)] * 3)


def test_reloads_under_load_lose_no_frame_and_a_wrong_file_changes_nothing(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    new = ["model", "new", "clip_zero_shot", "--option", "temperature=0.5", "--out", str(own)]
    assert main(new) == 0
    for seed in range(10):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), texture(seed))
    line.settings["sources"][0]["socket"] = "pull"
    line.settings["queue"] = {"max_frames": 8, "drop_policy": "block"}
    line.start()
    config = ("--config", str(line.config_path))
    stop, is_drained, sent = threading.Event(), threading.Event(), [0]

    def feed() -> None:
        with FramePublisher(
            line.endpoint, "cam1", category="fabric", mode="connect", socket="push"
        ) as cam1:
            while not stop.wait(0.25):
                cam1.send(texture(sent[0]))
                sent[0] += 1
            is_drained.wait(60)  # a sender that leaves may take what is in its socket with it

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        wait_until(lambda: sent[0] >= 15, "15 frames")
        line.settings["cameras"]["cam3"] = {"category": "cloth"}
        line.settings["categories"]["cloth"] = {"class_name": "cloth", "checkpoint": str(own)}
        line.settings["categories"]["fabric"]["ng_rate"] = 0.02
        line.settings["batch"] = {"max_batch_size": 4}
        line.write_config()
        assert main(["calibrate", *config, "--category", "cloth", str(tmp_path)]) == 0
        assert main(["reload", *config]) == 0
        reloaded = capsys.readouterr().out
        with FramePublisher(line.endpoint, "cam3", mode="connect", socket="push") as cam3:
            cam3.send(texture(999))
            cloth = "SELECT count(*) FROM inspection WHERE category='cloth'"
            wait_until(lambda: line.count(cloth), "the new camera's frame")

        line.settings["categories"]["cloth"]["checkpoint"] = "nowhere"
        line.write_config()
        assert main(["reload", *config]) == 2
        no_model = capsys.readouterr().out
        line.settings["categories"]["cloth"]["checkpoint"] = str(own)
        line.settings["categories"]["fabric"]["ng_rate"] = 2
        line.write_config()
        refused = main(["reload", *config])
        assert line.process is not None
        line.process.send_signal(signal.SIGHUP)
        wait_until(lambda: line.status().config.reloads == 3, "the refusal")
        stop.set()
        inspected = "SELECT count(*) FROM inspection WHERE camera='cam1'"
        wait_until(lambda: line.count(inspected) == sent[0], "every frame to be inspected")
    finally:
        stop.set()
        is_drained.set()
        feeder.join()
    in_force = line.status().config
    line.settings["categories"]["fabric"]["ng_rate"] = 0.02
    line.write_config()
    capsys.readouterr()
    assert main(["explain", "1", *config, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert line.stop() == 0
    assert line.count("SELECT count(*) FROM event WHERE kind='config_changed'") == 1
    assert "waits for a restart: batch.max_batch_size: 8 -> 4" in reloaded
    ((cloth_version, cloth_verdict),) = line.query(
        "SELECT m.name, i.verdict FROM inspection i JOIN model_version m "
        "ON m.id = i.model_version_id WHERE category='cloth'"
    )
    assert cloth_version == load_predictor(own, "cpu").version
    assert cloth_verdict != "LEARNING"  # its thresholds were there from the first frame
    (named,) = line.query(
        "SELECT DISTINCT m.name FROM inspection i JOIN model_version m "
        "ON m.id = i.model_version_id WHERE category='fabric'"
    )[0]
    assert named != cloth_version
    assert "daemon.yaml:" in no_model
    assert "categories.cloth.checkpoint" in no_model
    assert refused == 2
    assert "ng_rate" in in_force.problems[0]
    assert line.count("SELECT count(*) FROM event WHERE kind='config_refused'") == 2
    assert line.count("SELECT count(*) FROM inspection WHERE verdict='ERROR'") == 0
    assert line.count("SELECT count(*) FROM frame_loss") == 0
    assert found["verdict"] == "LEARNING"
    (setting,) = found["decided_by"]
    assert setting["key"] == "categories.fabric.learn_frames"
    assert setting["line"] is not None
