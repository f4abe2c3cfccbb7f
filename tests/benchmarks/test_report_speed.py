"""A shift report in a database of five million inspections, and one over all of them.

    pytest -m benchmark -s tests/benchmarks/test_report_speed.py

The floor is one pass of the database itself over the same rows, which only counts them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from daemon.config.line import Config
from daemon.report.shift import build_window_report
from daemon.shift_calendar import shift_window
from daemon.storage import repository
from daemon.storage.database import write_transaction
from daemon.storage.frame_columns import keep_hours

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

ROWS = 5_000_000
CHUNK = 500_000
DAYS = 30
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
END = BEGIN + timedelta(days=DAYS)
BEGIN_US = int(BEGIN.timestamp()) * 1_000_000
STEP_US = DAYS * 86_400_000_000 // ROWS
CAMERAS = 4
REPEATS = 3

CONFIG = Config.model_validate(
    {
        "line": "L1",
        "timezone": "Europe/Berlin",
        "run_dir": "/run/zsad",
        "sources": [{"endpoint": "ipc:///run/zsad/frames"}],
        "cameras": {f"cam{index}": {} for index in range(CAMERAS)},
        "categories": {"fabric": {"class_name": "fabric"}, "tile": {"class_name": "tile"}},
        "storage": {"url": "sqlite:///zsad.db"},
        "shifts": [
            {"name": "early", "start": "06:00"},
            {"name": "late", "start": "14:00"},
            {"name": "night", "start": "22:00"},
        ],
    }
)


def fill(engine: Engine) -> None:
    """One NG and one REVIEW frame in a hundred, each NG frame with a region; no pictures."""
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection, name="v1", method="m", backbone="b", card_json="{}", now=BEGIN
        )
    is_sqlite = engine.dialect.name == "sqlite"
    for first in range(0, ROWS, CHUNK):
        last = first + CHUNK - 1
        numbers = (
            f"WITH RECURSIVE s(n) AS (SELECT {first} UNION ALL "
            f"SELECT n + 1 FROM s WHERE n < {last})"
            if is_sqlite
            else "WITH s(n) AS (SELECT CAST(n AS bigint) "
            f"FROM generate_series({first}, {last}) AS n)"
        )
        # multiplicative hashes: values that look random, the same on both databases
        noise = "((n * 2654435761) % 4294967296) / 4294967296.0"
        with write_transaction(engine) as connection:
            connection.execute(
                text(
                    f"""
                    INSERT INTO inspection (id, line, camera, epoch, seq, category, captured_utc,
                        received_utc, decided_utc, frame_to_verdict_ms, verdict, pred_score,
                        map_peak, review_threshold, ng_threshold, map_threshold,
                        model_version_id, width_px, height_px)
                    {numbers}
                    SELECT n + 1, 'L1', 'cam' || (n % {CAMERAS}), n / {ROWS // DAYS},
                        (n % {ROWS // DAYS}) / {CAMERAS},
                        CASE n % 2 WHEN 0 THEN 'fabric' ELSE 'tile' END,
                        {BEGIN_US} + n * {STEP_US}, {BEGIN_US} + n * {STEP_US},
                        {BEGIN_US} + n * {STEP_US} + 40000, 20 + 60 * {noise},
                        CASE n % 100 WHEN 0 THEN 'NG' WHEN 1 THEN 'REVIEW' ELSE 'OK' END,
                        {noise}, {noise}, 0.98, 0.99, 0.99, 1, 640, 480
                    FROM s
                    """
                )
            )
    with write_transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO region (inspection_id, x_px, y_px, width_px, height_px, area_px, peak)"
                " SELECT id, 10, 20, 30, 40, 900, 0.9 FROM inspection WHERE verdict = 'NG'"
            )
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE" if is_sqlite else "VACUUM ANALYZE"))


def best_of(repeats: int, work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of the fastest call."""
    found = []
    for _ in range(repeats):
        began_at, cpu_s = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - began_at, time.process_time() - cpu_s))
    return min(found)


def count(engine: Engine, start_utc: datetime, end_utc: datetime) -> int:
    with engine.connect() as connection:
        return int(
            connection.execute(
                text(
                    "SELECT count(frame_to_verdict_ms) FROM inspection "
                    "WHERE received_utc >= :start AND received_utc < :end"
                ),
                {
                    "start": int(start_utc.timestamp() * 1e6),
                    "end": int(end_utc.timestamp() * 1e6),
                },
            ).scalar_one()
        )


@dataclass(frozen=True)
class Case:
    name: str
    start_utc: datetime
    end_utc: datetime

    def measure(self, engine: Engine, how: str) -> None:
        def build() -> object:
            return build_window_report(
                engine, CONFIG, self.start_utc, self.end_utc, self.name, now=END
            )

        frames = count(engine, self.start_utc, self.end_utc)
        floor_s, _ = best_of(REPEATS, lambda: count(engine, self.start_utc, self.end_utc))
        wall_s, cpu_s = best_of(REPEATS, build)
        print(
            f"{engine.dialect.name}, {how}, {self.name}, {frames} frames: {wall_s:.2f} s "
            f"({cpu_s:.2f} s CPU of this process), one pass of the database {floor_s:.2f} s"
        )


def test_a_report_over_five_million_inspections(engine: Engine) -> None:
    began_at = time.perf_counter()
    fill(engine)
    print(f"\n{engine.dialect.name}: {ROWS} rows made in {time.perf_counter() - began_at:.0f} s")
    shift = shift_window(CONFIG.shifts, CONFIG.zone, date(2026, 1, 15), "early")
    cases = Case("one shift", shift.start_utc, shift.end_utc), Case("all", BEGIN, END)
    for case in cases:
        case.measure(engine, "rows")
    began_at = time.perf_counter()
    step_s = [0.0]
    for _ in keep_hours(engine, "L1", END):
        step_s.append(time.perf_counter() - began_at - sum(step_s))
    print(
        f"{DAYS * 24} hours kept as columns in {sum(step_s):.0f} s, in {len(step_s) - 1} steps of "
        f"{sum(step_s) / len(step_s) * 1000:.0f} ms, the longest {max(step_s) * 1000:.0f} ms"
    )
    for case in cases:
        case.measure(engine, "columns")
