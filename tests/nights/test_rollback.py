"""After a promotion the verdict rates are watched; a model that leaves its band is taken back."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from night_frames import inspection
from night_models import LINE, START, NightLine, config_of
from sqlalchemy import Engine

from daemon.core import FrameId, Severity, Verdict
from daemon.errors import StorageError
from daemon.storage import models, repository
from daemon.storage.database import write_transaction

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def line(tmp_path: Path, made: Path, line_engine: Engine) -> Iterator[NightLine]:
    """A line on which model `a` was promoted just now, over a base with 9 % NG and 15 % REVIEW."""
    line = NightLine(tmp_path, line_engine, config_of(tmp_path, made / "base"))
    line.a = line.store.add(made / "a")
    line.base = line.store.base_version()
    for version in (line.base, line.a):
        line.calibrate(version, 0.7, 0.8)
    line.start()
    judged(line, line.base, frames=1_000, ng=90, review=150, at=START - timedelta(hours=1))
    with write_transaction(line.engine) as connection:
        models.promote(
            connection,
            LINE,
            line.a,
            instead_of=line.base,
            author="shadow",
            reason="better",
            now=line.now,
        )
    line.look_until(lambda: line.slot.version == line.a, "the swap")
    line.look()  # notes it
    yield line
    line.close()


def judged(
    line: NightLine, version: str, *, frames: int, ng: int, review: int, at: datetime
) -> None:
    """Store that a model said this of so many frames."""
    rows = []
    for number in range(frames):
        verdict = Verdict.NG if number < ng else Verdict.OK
        verdict = Verdict.REVIEW if ng <= number < ng + review else verdict
        frame_id = FrameId("cam2", int(at.timestamp()), number)
        rows.append(
            inspection(
                0, frame_id=frame_id, received_utc=at, verdict=verdict, model_version=version
            )
        )
    with write_transaction(line.engine) as connection:
        repository.add_results(connection, LINE, rows)


def test_a_model_that_doubles_the_ng_rate_is_rolled_back_by_itself(line: NightLine) -> None:
    judged(line, line.a, frames=1_000, ng=180, review=150, at=line.now)

    line.look(30)
    line.look_until(lambda: line.slot.version == line.base, "the way back")

    (alarm,) = line.events(Severity.ALARM)
    assert "model_rolled_back" in alarm
    assert "NG 18.00% (180 of 1000 frames), before 9.00% (90 of 1000)" in alarm
    with line.engine.connect() as connection:
        active = models.active(connection, LINE)
        last = models.changes(connection, LINE, START)[-1]
    assert active is not None
    assert (active.version, active.previous) == (line.base, line.base)
    assert (last.kind, last.author, last.previous) == ("rolled_back", "watch", line.base)
    with write_transaction(line.engine) as connection, pytest.raises(StorageError, match="person"):
        models.propose(connection, LINE, line.a, 20, "night", "again", line.now)
    line.look(30)
    assert line.turn([1])[0].model_version == line.base, "what was before is not watched"


def test_three_ng_frames_do_not_roll_back(line: NightLine) -> None:
    judged(line, line.a, frames=10, ng=3, review=0, at=line.now)

    line.look(30)

    assert line.slot.version == line.a
    assert line.events(Severity.ALARM) == []


def test_a_model_whose_verdicts_stay_in_their_band_is_confirmed_once(line: NightLine) -> None:
    judged(line, line.a, frames=500, ng=46, review=74, at=line.now)
    line.look(30)
    status = line.health.snapshot(0.0, line.now).model
    assert status is not None
    assert status.watched_until_utc is not None

    line.look(3600)
    line.look(3600)

    confirmed = line.query("SELECT reason FROM model_change WHERE kind = 'confirmed'")
    assert len(confirmed) == 1
    assert "NG 9.20%, REVIEW 14.80% of 500 frames (before 9.00%" in str(confirmed[0][0])
    judged(line, line.a, frames=500, ng=400, review=0, at=line.now)
    line.look(30)
    assert line.slot.version == line.a, "the watch is over"


def test_the_watch_goes_on_after_a_restart(line: NightLine) -> None:
    judged(line, line.a, frames=1_000, ng=300, review=100, at=line.now)

    again = NightLine(line.folder, line.engine, line.config)
    again.start()
    assert again.slot.version == line.a
    again.now = line.now
    again.look(30)
    again.look_until(lambda: again.slot.version == line.base, "the way back")
    again.close()


def test_a_second_roll_back_never_returns_to_what_was_rolled_back(line: NightLine) -> None:
    with write_transaction(line.engine) as connection:
        models.roll_back(connection, LINE, line.a, "ana", "too strict", line.now)
    with write_transaction(line.engine) as connection, pytest.raises(StorageError, match="earlier"):
        models.roll_back(connection, LINE, line.base, "ana", "again", line.now)


def test_a_person_who_was_faster_is_not_rolled_back(line: NightLine) -> None:
    with (
        write_transaction(line.engine) as connection,
        pytest.raises(StorageError, match="meanwhile"),
    ):
        models.roll_back(connection, LINE, line.base, "watch", "too strict", line.now)
