"""How long whole frames stay: what is labelled stays, a row goes before its file."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from night_frames import BOTH, LINE, NOW, inspection, jpeg
from sqlalchemy import Engine, select

from daemon.config.frames import FramesConfig
from daemon.core import Event, EventKind, Verdict
from daemon.storage import frame_retention
from daemon.storage.frame_retention import FrameRetention, prune, shrink, sweep, used_bytes
from daemon.storage.night_tables import FrameFileRow

Store = Callable[..., None]
Say = Callable[..., None]
OLD = NOW - timedelta(days=40)


def seqs(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(select(FrameFileRow.seq).order_by(FrameFileRow.seq)))


def files(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.rglob("*") if path.is_file())


def test_old_frames_go_with_their_files_unless_labelled(
    line_engine: Engine, frames_dir: Path, store: Store, say: Say
) -> None:
    store(*(inspection(seq, received_utc=OLD) for seq in range(3)), inspection(3))
    say(2, "UNCERTAIN")

    (removed,) = prune(line_engine, frames_dir, LINE, NOW - timedelta(days=30))

    assert (removed.verdict, removed.count) == (Verdict.REVIEW, 2)
    assert removed.n_bytes == len(jpeg(0)) + len(jpeg(2))
    assert seqs(line_engine) == [1, 3]
    assert files(frames_dir) == ["cam1-7-1", "cam1-7-3"]


def test_learning_frames_that_made_thresholds_stay(
    line_engine: Engine,
    frames_dir: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frame_retention, "THRESHOLD_FRAMES", 2)
    for seq in range(4):
        at = OLD + timedelta(minutes=seq)
        store(inspection(seq, verdict=Verdict.LEARNING, received_utc=at))
    store(inspection(9, verdict=Verdict.LEARNING, received_utc=OLD, category="tile"))

    list(prune(line_engine, frames_dir, LINE, NOW))
    list(shrink(line_engine, frames_dir, LINE, 1 << 40, NOW))

    assert seqs(line_engine) == [2, 3, 9]


def test_over_the_budget_the_least_important_and_oldest_go_first(
    line_engine: Engine, frames_dir: Path, store: Store
) -> None:
    verdicts = [Verdict.NG, Verdict.REVIEW, Verdict.OK, Verdict.OK]
    for seq, verdict in enumerate(verdicts):
        store(inspection(seq, verdict=verdict, received_utc=NOW - timedelta(minutes=seq)))
    sizes = [len(jpeg(seq)) for seq in range(4)]

    (first,) = shrink(line_engine, frames_dir, LINE, 1, NOW)
    assert (first.verdict, first.n_bytes) == (Verdict.OK, sizes[3])
    list(shrink(line_engine, frames_dir, LINE, sizes[2] + 1, NOW))
    assert seqs(line_engine) == [0]
    list(shrink(line_engine, frames_dir, "line2", 1 << 40, NOW + timedelta(days=1)))
    assert (seqs(line_engine), files(frames_dir)) == ([0], ["cam1-7-0"])


@BOTH
def test_a_kill_between_row_and_file_leaves_a_file_that_is_swept(
    line_engine: Engine, frames_dir: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(inspection(0, received_utc=OLD), inspection(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(frame_retention, "_unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            list(prune(line_engine, frames_dir, LINE, NOW - timedelta(days=30)))
    assert seqs(line_engine) == [1]
    assert files(frames_dir) == ["cam1-7-0", "cam1-7-1"]

    swept = sum(sweep(line_engine, frames_dir, LINE, NOW - timedelta(days=30)))

    assert swept == 1
    assert files(frames_dir) == ["cam1-7-1"]
    assert sorted(path.name for path in (frames_dir / "frames/line1/cam1").iterdir()) == [
        "2026-11-22"
    ]


def test_a_file_whose_row_a_crash_took_is_swept_when_it_is_old(
    line_engine: Engine, frames_dir: Path, store: Store
) -> None:
    store(inspection(0, received_utc=OLD), inspection(1))
    hour = frames_dir / f"frames/line1/cam1/{OLD:%Y-%m-%d}/{OLD:%H}"
    (hour / "cam1-7-8.jpg").write_bytes(b"no row")
    (hour / ".cam1-7-9.jpg.tmp").write_bytes(b"killed while it was written")
    (frames_dir / "frames/line1/cam1/notes").mkdir()

    for _ in range(2):
        list(sweep(line_engine, frames_dir, LINE, NOW - timedelta(days=30)))

    assert files(frames_dir) == ["cam1-7-0", "cam1-7-1"]


def test_a_database_that_knows_nothing_of_the_folder_sweeps_nothing(
    line_engine: Engine, frames_dir: Path, store: Store
) -> None:
    store(inspection(0, received_utc=OLD))

    assert list(sweep(line_engine, frames_dir, "line2", NOW)) == []
    (frames_dir / "frames" / "line2").mkdir()
    (frames_dir / "frames" / "line1").rename(frames_dir / "frames" / "line2" / "x")
    assert list(sweep(line_engine, frames_dir, "line2", NOW)) == []


@BOTH
def test_steps_do_a_days_work_and_say_what_went(
    line_engine: Engine, frames_dir: Path, store: Store, say: Say, now: datetime
) -> None:
    clock = [0.0]
    store(*(inspection(seq, received_utc=OLD) for seq in range(3)))
    store(*(inspection(seq, verdict=Verdict.OK) for seq in range(3, 6)))
    say(1, "NG")
    config = FramesConfig(dir=frames_dir).model_copy(update={"max_bytes": len(jpeg(0)) - 1})
    upkeep = FrameRetention(
        line_engine,
        config,
        LINE,
        now=lambda: now + timedelta(seconds=1),
        is_clock_right=lambda: True,
        clock=lambda: clock[0],
    )

    def work() -> list[Event]:
        return [event for _ in range(12) for event in upkeep.step()]

    assert work() == []
    clock[0] = 61.0
    said = work()
    assert [(event.kind, event.detail) for event in said[:2]] == [
        (EventKind.PRUNED, "2 REVIEW whole frames"),
        (EventKind.PRUNED, "3 OK whole frames"),
    ]
    assert said[2].kind is EventKind.FRAMES_NOT_KEPT
    assert "raise it" in said[2].detail
    assert seqs(line_engine) == [0]
    with line_engine.connect() as connection:
        assert used_bytes(connection, LINE) == len(jpeg(0))

    clock[0] = 62.0
    store(inspection(7))
    assert work() == []
    clock[0] = 400.0
    assert [event.detail for event in work()] == ["1 REVIEW whole frames"]


def test_under_a_doubted_clock_nothing_goes_for_its_age_but_the_budget_holds(
    line_engine: Engine, frames_dir: Path, store: Store, now: datetime
) -> None:
    clock = [0.0]
    store(*(inspection(seq, received_utc=OLD) for seq in range(2)))
    config = FramesConfig(dir=frames_dir).model_copy(update={"max_bytes": len(jpeg(1))})
    upkeep = FrameRetention(
        line_engine,
        config,
        LINE,
        now=lambda: now + timedelta(days=4000),
        is_clock_right=lambda: False,
        clock=lambda: clock[0],
    )
    clock[0] = 61.0

    said = [event for _ in range(12) for event in upkeep.step()]

    assert [event.detail for event in said] == ["1 REVIEW whole frames"]
    assert seqs(line_engine) == [1]
