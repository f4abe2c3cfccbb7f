"""Real daemons, real nights: what the line disagrees with is taken back, no kill costs a frame."""

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import cv2
import pytest
import yaml
from daemon_process import Line, wait_until
from night_frames import NOW
from night_line import NightLine, fill_up, grain_line
from night_models import picture, thresholds
from night_pictures import draw

from daemon.config.storage import StorageConfig
from daemon.ingest.publisher import FramePublisher
from daemon.ingest.reliable_publisher import ReliablePublisher
from daemon.storage import repository
from daemon.storage.database import open_database, write_transaction
from daemon.training.model_store import ModelStore

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(400)]

ROWS = "SELECT count(*) FROM inspection WHERE epoch <> 1"
"""Inspections of live frames; labelled ones have epoch 1."""
MODEL_EVENTS = "SELECT kind, severity FROM event WHERE kind LIKE 'model%' ORDER BY at_utc, id"


@pytest.fixture
def sockets() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="zsad-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def started() -> Iterator[list[Line]]:
    """Lines whose daemons end with the test."""
    lines: list[Line] = []
    yield lines
    for line in lines:
        if line.process is not None:
            line.kill()


def daemon_of(night: NightLine, sockets: Path, **settings: object) -> Line:
    """The daemon of a line that nights were prepared for."""
    line = Line(night.root, sockets)
    found = yaml.safe_load(night.file.read_text(encoding="utf-8"))
    sources = [{"endpoint": line.endpoint, "mode": "bind"}]
    line.settings = {**found, "sources": sources, "http": {"listen": "off"}, **settings}
    line.write_config()
    return line


class Stream:
    """A third of the parts is smeared: the labels call them NG, plain scoring passes them."""

    def __init__(self, line: Line, camera: FramePublisher, folder: Path) -> None:
        self._line, self._camera = line, camera
        kinds = (draw(folder, 10, is_ng=is_ng, seed=7) for is_ng in (False, True))
        self._ok, self._ng = ([cv2.imread(str(file)) for file in files] for files in kinds)
        self.sent = 0

    def until(self, condition: Callable[[], object], what: str) -> None:
        def step() -> bool:
            while self.sent - self._line.count(ROWS) < 4:  # a line with moments to spare
                files = self._ng if self.sent % 3 == 0 else self._ok
                self._camera.send(files[self.sent // 3 % 10])
                self.sent += 1
            return bool(condition())

        wait_until(step, what, 120)


def test_a_candidate_that_passes_the_gate_and_doubles_the_ng_rate_is_taken_back_by_itself(
    tmp_path: Path, migrated_file: Path, small_model: Path, sockets: Path, started: list[Line]
) -> None:
    night = grain_line(tmp_path, migrated_file, small_model, shadow_frames=0, watch_minutes=10)
    line = daemon_of(night, sockets)
    started.append(line)
    config = ("--config", str(line.config_path))
    good = draw(tmp_path / "good", 40, is_ng=False, seed=7)
    line.command("calibrate", "--category", "grain", *map(str, good), *config)
    line.start()
    with FramePublisher(line.endpoint, "cam1", category="grain", mode="connect") as camera:
        assert camera.wait_for_subscriber(10)
        stream = Stream(line, camera, tmp_path / "live")
        stream.until(lambda: line.count(ROWS) >= 80, "frames of the model before")
        done = line.command("train", "nightly", "--now", *config)
        assert done.stdout.startswith("proposed: ")
        events = "SELECT count(*) FROM event WHERE kind = '{}'"
        stream.until(lambda: line.count(events.format("model_rolled_back")) == 1, "the roll-back")
        stream.until(lambda: line.count(events.format("model_swapped")) == 2, "the way back")
        after = stream.sent
        stream.until(lambda: stream.sent > after + 10, "frames of the model before, again")
        wait_until(lambda: line.count(ROWS) == stream.sent, "every frame")
        status = line.status()

    assert line.stop() == 0
    assert line.query(MODEL_EVENTS) == [
        ("model_proposed", "info"),
        ("model_promoted", "info"),
        ("model_swapped", "info"),
        ("model_rolled_back", "alarm"),
        ("model_swapped", "info"),
    ]
    assert status is not None
    assert status.model_version == night.base_version
    assert line.count("SELECT count(*) FROM frame_loss") == 0
    changes = line.query("SELECT kind, author, reason, at_utc FROM model_change ORDER BY id")
    (_, _, _, promoted_utc), (kind, author, reason, back_utc) = changes[-2:]
    assert (kind, author) == ("rolled_back", "watch")
    assert "grain: NG " in reason
    took_s = (back_utc - promoted_utc) / 1e6
    assert took_s < 600, "within its window"
    print(f"{reason}; {took_s:.0f} s after the promotion")
    line.command("model", "list", *config)
    night.close()


def test_kill_9_between_the_promotion_and_the_swap_loses_no_frame(
    tmp_path: Path, made: Path, migrated_file: Path, sockets: Path, started: list[Line]
) -> None:
    line = Line(tmp_path, sockets)
    started.append(line)
    shutil.copy(migrated_file, tmp_path / "zsad.db")
    line.settings["sources"] = [{"endpoint": line.endpoint, "mode": "bind", "socket": "router"}]
    line.settings["model"] = {"checkpoint": str(made / "base"), "device": "cpu"}
    line.settings["categories"] = {"fabric": {"class_name": "woven fabric"}}
    line.settings["frames"] = {"dir": "frames"}
    line.settings["training"] = {"models_dir": "models"}
    store = ModelStore(tmp_path / "models", made / "base")
    base, promoted = store.base_version(), store.add(made / "a")
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), tmp_path, {})
    with write_transaction(engine) as connection:
        for version in (base, promoted):
            repository.ensure_model_version(
                connection, name=version, method="m", backbone="b", card_json="{}", now=NOW
            )
            repository.add_calibration(connection, thresholds(version, 0.7, 0.8))
    engine.dispose()
    line.start()
    with ReliablePublisher(line.endpoint, "cam1", category="fabric", linger_s=60) as camera:
        for seed in range(20):
            camera.send(picture(seed))
        wait_until(lambda: line.count(ROWS) == 20, "frames of the model before")
        assert line.process is not None
        line.process.send_signal(signal.SIGSTOP)  # so that the swap cannot be faster
        line.command("model", "promote", promoted, "--config", str(line.config_path))
        for seed in range(20):
            camera.send(picture(seed))
        line.kill()
        assert line.count("SELECT count(*) FROM event WHERE kind = 'model_promoted'") == 1
        assert line.count("SELECT count(*) FROM event WHERE kind = 'model_swapped'") == 0

        line.start()
        wait_until(lambda: line.count(ROWS) == 40, "what was sent meanwhile")

    assert line.stop() == 0
    assert line.query("PRAGMA integrity_check") == [("ok",)]
    assert line.count("SELECT count(*) FROM frame_loss") == 0
    assert line.query(
        "SELECT m.name, min(i.seq), max(i.seq), count(*), min(i.verdict), max(i.verdict) "
        "FROM inspection i JOIN model_version m ON m.id = i.model_version_id "
        "GROUP BY 1 ORDER BY 2"
    ) == [(base, 0, 19, 20, "OK", "OK"), (promoted, 20, 39, 20, "OK", "OK")]


def test_a_full_disk_costs_the_night_and_not_a_frame(
    tmp_path: Path,
    migrated_file: Path,
    small_model: Path,
    small_disk: Path,
    sockets: Path,
    started: list[Line],
) -> None:
    now = datetime.now(ZoneInfo("Europe/Berlin"))
    window = {
        name: f"{now + timedelta(hours=hours):%H:%M}"
        for name, hours in (("window_start", -1), ("window_end", 2))
    }
    night = grain_line(tmp_path, migrated_file, small_model, models_dir=small_disk, **window)
    (small_disk / ".night").mkdir()
    (small_disk / ".night" / "lock").touch()
    filler = small_disk / "filler"
    fill_up(filler)
    line = daemon_of(night, sockets)
    started.append(line)
    config = ("--config", str(line.config_path))
    line.start()
    with FramePublisher(line.endpoint, "cam1", category="grain", mode="connect") as camera:
        assert camera.wait_for_subscriber(10)
        stream = Stream(line, camera, tmp_path / "live")
        failed = "SELECT count(*) FROM job_run WHERE state = 'failed'"
        stream.until(lambda: line.count(failed) == 1, "the end of the night")
        after = stream.sent
        stream.until(lambda: stream.sent > after + 10, "frames after the night")
        wait_until(lambda: line.count(ROWS) == stream.sent, "every frame")
        ((detail,),) = line.query("SELECT detail FROM job_run")
        assert "No space left on device" in detail
        assert line.query("SELECT kind FROM event WHERE kind LIKE 'model%'") == []

        filler.unlink()
        done = line.command("train", "nightly", "--now", *config)
        assert done.stdout.startswith("proposed: ")

    assert line.stop() == 0
    assert line.count("SELECT count(*) FROM frame_loss") == 0
    assert line.count("SELECT count(*) FROM inspection WHERE verdict = 'ERROR'") == 0
    night.close()
