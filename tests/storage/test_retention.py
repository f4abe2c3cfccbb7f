from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text

from daemon.config.retention import RetentionConfig, SampleConfig
from daemon.core import EventKind, Inspection, Thumbnails, Verdict
from daemon.storage import partitions, repository, retention
from daemon.storage.database import write_transaction
from daemon.storage.forecast import Growth, days_until_full, forecast, used_bytes
from daemon.storage.housekeeping import FIRST_PRUNE_S, Housekeeper, give_back
from daemon.storage.tables import InspectionRow, RegionRow, ThumbnailRow

MakeInspection = Callable[..., Inspection]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PICTURES = Thumbnails(bytes(6000), bytes(3000), bytes(1000))
FULL_AGE = RetentionConfig(pictures_days={"OK": 30, "LEARNING": 30}, rows_days={"OK": 60})


@pytest.fixture
def store(
    line_engine: Engine, make_inspection: MakeInspection
) -> Callable[[Verdict, float, int], None]:
    """Stores frames of one verdict that are so many days old."""
    seqs = iter(range(1_000_000))

    def store_some(verdict: Verdict, age_days: float, frames: int) -> None:
        received_utc = NOW - timedelta(days=age_days)
        made = [
            make_inspection(
                next(seqs), verdict=verdict, thumbnails=PICTURES, received_utc=received_utc
            )
            for _ in range(frames)
        ]
        with write_transaction(line_engine) as connection:
            repository.add_results(connection, "line1", made)

    return store_some


def left(engine: Engine, table: type[InspectionRow | ThumbnailRow]) -> dict[str, int]:
    with engine.connect() as connection:
        found = connection.execute(select(table.verdict, func.count()).group_by(table.verdict))
        return {row[0]: row[1] for row in found}


def test_what_is_old_goes_by_verdict_and_ng_stays(
    line_engine: Engine, store: Callable[[Verdict, float, int], None]
) -> None:
    store(Verdict.OK, 61, 250)
    store(Verdict.OK, 31, 3)
    store(Verdict.OK, 29, 4)
    store(Verdict.NG, 400, 5)
    store(Verdict.LEARNING, 31, 6)
    rules = retention.rules_of(FULL_AGE, NOW)
    with line_engine.connect() as connection:
        expected = retention.preview(connection, rules)

    removed = list(retention.prune(line_engine, rules))

    assert left(line_engine, InspectionRow) == {"OK": 7, "NG": 5, "LEARNING": 6}
    assert left(line_engine, ThumbnailRow) == {"OK": 4, "NG": 5}
    with line_engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(RegionRow)) == 18
        assert all(rule.count == 0 for rule in retention.preview(connection, rules))
    assert [(item.what, item.verdict, item.count) for item in expected] == [
        ("rows", "OK", 250),
        ("pictures", "OK", 253),
        ("pictures", "LEARNING", 6),
    ]
    assert sum(item.picture_bytes for item in removed) == 259 * 10_000
    assert max(item.count for item in removed if item.what == "rows") <= retention.CHUNK_ROWS


def test_of_sampled_ok_pictures_one_of_n_stays(
    line_engine: Engine, store: Callable[[Verdict, float, int], None]
) -> None:
    store(Verdict.OK, 5, 40)
    store(Verdict.OK, 1, 7)
    config = RetentionConfig(sample_ok=SampleConfig(after_days=3, keep_one_of=10))

    list(retention.prune(line_engine, retention.rules_of(config, NOW)))

    assert left(line_engine, ThumbnailRow) == {"OK": 4 + 7}
    assert left(line_engine, InspectionRow) == {"OK": 47}


def test_a_protected_picture_outlives_its_day(
    line_engine: Engine,
    store: Callable[[Verdict, float, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store(Verdict.OK, 90, 5)
    prepare(line_engine)
    monkeypatch.setattr(retention, "is_protected", lambda number: number == 3)

    list(retention.prune(line_engine, retention.rules_of(FULL_AGE, NOW)))

    assert left(line_engine, ThumbnailRow) == left(line_engine, InspectionRow) == {"OK": 1}


def test_over_the_budget_the_oldest_ok_pictures_go_first(
    line_engine: Engine, store: Callable[[Verdict, float, int], None]
) -> None:
    store(Verdict.OK, 2, 300)
    store(Verdict.REVIEW, 3, 10)
    store(Verdict.NG, 9, 10)

    removed = list(retention.shrink(line_engine, 1_000_000, NOW))

    assert left(line_engine, ThumbnailRow) == {"OK": 100, "REVIEW": 10, "NG": 10}
    assert sum(item.picture_bytes for item in removed) >= 1_000_000


def test_no_budget_makes_ng_pictures_go(
    line_engine: Engine, store: Callable[[Verdict, float, int], None]
) -> None:
    store(Verdict.OK, 2, 3)
    store(Verdict.NG, 9, 4)

    list(retention.shrink(line_engine, 1 << 40, NOW))

    assert left(line_engine, ThumbnailRow) == {"NG": 4}


def test_a_sqlite_file_gets_smaller(
    sqlite_engine: Engine,
    register: Callable[[Engine], None],
    make_inspection: MakeInspection,
    tmp_path: Path,
) -> None:
    register(sqlite_engine)
    made = [make_inspection(n, verdict=Verdict.OK, thumbnails=PICTURES) for n in range(600)]
    with write_transaction(sqlite_engine) as connection:
        repository.add_results(connection, "line1", made)
        before = used_bytes(connection)
    list(retention.shrink(sqlite_engine, 1 << 40, NOW))

    steps = sum(1 for _ in give_back(sqlite_engine))

    sqlite_engine.dispose()  # the last connection writes the log back
    with sqlite_engine.connect() as connection:
        assert used_bytes(connection) < before / 4
    assert (tmp_path / "zsad.db").stat().st_size < before / 2
    assert steps > 1


def prepare(engine: Engine) -> partitions.Prepared | None:
    if engine.dialect.name != "postgresql":
        return None
    with write_transaction(engine) as connection:
        return partitions.prepare_days(connection, NOW.date())


def test_days_are_prepared_once_and_stray_pictures_are_moved(
    postgres_engine: Engine, register: Callable[[Engine], None], make_inspection: MakeInspection
) -> None:
    register(postgres_engine)
    with write_transaction(postgres_engine) as connection:
        stray = make_inspection(1, verdict=Verdict.OK, received_utc=NOW - timedelta(days=40))
        repository.add_results(connection, "line1", [stray])

    first, second = prepare(postgres_engine), prepare(postgres_engine)

    assert first is not None
    assert (len(first.created), first.moved) == (partitions.DAYS_AHEAD + 2, 1)
    assert second == partitions.Prepared((), 0)
    with postgres_engine.connect() as connection:
        where = connection.scalar(text("SELECT tableoid::regclass::text FROM thumbnail"))
        days = partitions.days(connection)
    assert where == f"thumbnail_day_{(days[0] - date(1970, 1, 1)).days}"
    assert days[0] == (NOW - timedelta(days=40)).date()


def test_a_whole_day_goes_with_its_partition(
    postgres_engine: Engine, register: Callable[[Engine], None], make_inspection: MakeInspection
) -> None:
    register(postgres_engine)
    old = NOW - timedelta(days=40)
    made = [make_inspection(n, verdict=Verdict.OK, received_utc=old) for n in range(3)]
    with write_transaction(postgres_engine) as connection:
        repository.add_results(connection, "line1", [*made, make_inspection(9, received_utc=old)])
    prepare(postgres_engine)

    removed = list(retention.prune(postgres_engine, retention.rules_of(FULL_AGE, NOW)))

    assert [(item.verdict, item.count) for item in removed] == [("OK", 3)]
    assert left(postgres_engine, ThumbnailRow) == {"NG": 1}
    with postgres_engine.connect() as connection:
        assert min(partitions.days(connection)) == NOW.date()


@pytest.mark.parametrize(
    ("room", "growth", "days"),
    [
        (1000, [Growth(100, None)], 10),
        (1000, [Growth(100, 5), Growth(50, None)], 5 + 250 / 50),
        (1000, [Growth(100, 9)], None),
        (0, [Growth(1, None)], 0),
        (1000, [], None),
    ],
)
def test_the_forecast_knows_what_retention_stops(
    room: float, growth: list[Growth], days: float | None
) -> None:
    assert days_until_full(room, growth) == days


def test_the_forecast_follows_recent_days(
    line_engine: Engine, store: Callable[[Verdict, float, int], None]
) -> None:
    store(Verdict.NG, 2, 100)
    config = RetentionConfig(max_database_bytes=1 << 40)

    with line_engine.connect() as connection:
        found = forecast(connection, config, NOW)

    assert 500_000 < found.bytes_per_day < 600_000
    assert found.used_bytes > 1_000_000


def test_a_day_of_housekeeping_prunes_and_says_so(
    line_engine: Engine, store: Callable[[Verdict, float, int], None]
) -> None:
    store(Verdict.OK, 40, 3)
    at = 0.0
    keeper = Housekeeper(
        line_engine,
        FULL_AGE,
        line="line1",
        now=lambda: NOW,
        is_clock_right=lambda: True,
        clock=lambda: at,
    )
    early = [event for _ in range(20) for event in keeper.step()]
    assert left(line_engine, ThumbnailRow) == {"OK": 3}
    at = FIRST_PRUNE_S

    events = [event for _ in range(20) for event in keeper.step()]

    assert left(line_engine, ThumbnailRow) == {}
    assert [(event.kind, event.detail) for event in events] == [(EventKind.PRUNED, "3 OK pictures")]
    assert {event.kind for event in early} <= {EventKind.PARTITION_MISSED}
