from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, inspect, text

from daemon.core import (
    Event,
    EventKind,
    FrameLoss,
    Inspection,
    Label,
    LabelVerdict,
    LossReason,
    Severity,
    Verdict,
)
from daemon.storage import labels, models, repository
from daemon.storage.database import write_transaction

MakeInspection = Callable[..., Inspection]
MakeLoss = Callable[..., FrameLoss]


def one(engine: Engine, query: str) -> dict[str, object]:
    with engine.connect() as connection:
        return dict(connection.execute(text(query)).mappings().one())


def store(engine: Engine, results: list[Inspection | FrameLoss | Event]) -> None:
    with write_transaction(engine) as connection:
        repository.add_results(connection, "line1", results)


def test_times_are_iso_text_and_exact_microseconds(
    line_engine: Engine, make_inspection: MakeInspection, now: datetime
) -> None:
    store(line_engine, [make_inspection(0)])

    row = one(line_engine, "SELECT received_utc, received_us, regions FROM v_inspection")

    assert row == {
        "received_utc": "2026-01-31T05:59:59.123456Z",
        "received_us": round(now.timestamp() * 1_000_000),
        "regions": 1,
    }


def test_v_defect_has_a_row_for_each_region(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    store(line_engine, [make_inspection(0), make_inspection(1, regions=())])

    row = one(line_engine, "SELECT * FROM v_defect")

    assert (row["part_id"], row["x_px"], row["area_px"], row["peak"]) == ("part0", 1, 10, 0.875)


def test_v_loss_says_what_was_lost(line_engine: Engine, make_loss: MakeLoss) -> None:
    store(line_engine, [make_loss(LossReason.GAP, 3, 5)])

    row = one(line_engine, "SELECT * FROM v_loss")

    assert (row["reason"], row["frames"], row["first_seq"]) == ("gap", 3, 3)
    assert row["lost_utc"] == "2026-01-31T05:59:59.123456Z"


def test_v_event_tells_the_diary(line_engine: Engine, now: datetime) -> None:
    event = Event(EventKind.STARTED, Severity.INFO, now, "with a\x00NUL", camera="cam1")
    store(line_engine, [event])

    row = one(line_engine, "SELECT * FROM v_event")

    assert (row["kind"], row["severity"], row["camera"]) == ("started", "info", "cam1")
    assert (row["at_utc"], row["detail"]) == ("2026-01-31T05:59:59.123456Z", "with a\ufffdNUL")


def test_the_ledger_adds_up(
    line_engine: Engine, make_inspection: MakeInspection, make_loss: MakeLoss
) -> None:
    verdicts = [Verdict.OK, Verdict.OK, Verdict.NG, Verdict.REVIEW, Verdict.LEARNING]
    error = {"verdict": Verdict.ERROR, "error_reason": LossReason.BAD_PAYLOAD}
    store(
        line_engine,
        [
            *(make_inspection(seq, verdict=verdict) for seq, verdict in enumerate(verdicts)),
            make_inspection(5, **error),
            make_loss(LossReason.QUEUE_FULL, 6),
            make_loss(LossReason.GAP, 7, 16),
        ],
    )

    row = one(line_engine, "SELECT * FROM v_ledger")

    assert row["received"] == row["inspected"] + row["lost"] == 7
    assert row["inspected"] == row["ok"] + row["ng"] + row["review"] + row["learning"] == 5
    assert (row["lost_bad_payload"], row["lost_queue_full"], row["errors"]) == (1, 1, 1)
    assert row["gaps"] == 10
    assert row["hour_utc"] == "2026-01-31T05:00:00.000000Z"
    assert all(isinstance(row[name], int) for name in ("received", "gaps", "lost_clock"))


def test_the_ledger_parts_hours_and_cameras(
    line_engine: Engine, make_inspection: MakeInspection, now: datetime
) -> None:
    later = now + timedelta(seconds=1)
    store(
        line_engine,
        [
            make_inspection(0),
            make_inspection(1, received_utc=later),
            make_inspection(0, camera="cam2"),
        ],
    )

    with line_engine.connect() as connection:
        rows = connection.execute(
            text("SELECT camera, hour_utc, received FROM v_ledger ORDER BY camera, hour_utc")
        ).all()

    assert [(camera, hour[11:13], received) for camera, hour, received in rows] == [
        ("cam1", "05", 1),
        ("cam1", "06", 1),
        ("cam2", "05", 1),
    ]


def test_every_reason_of_loss_has_a_column_in_the_ledger(engine: Engine) -> None:
    columns = {column["name"] for column in inspect(engine).get_columns("v_ledger")}

    missing = {f"lost_{reason.value}" for reason in LossReason} - columns

    assert missing == {"lost_gap"}


def examples() -> list[str]:
    guide = Path(__file__).parents[2] / "docs" / "database.md"
    code = "".join(
        line[4:] for line in guide.read_text().splitlines(keepends=True) if line[:4] == "    "
    )
    return [part.strip() for part in code.split(";") if part.strip()]


def test_the_examples_in_the_guide_run_on_both_databases(
    line_engine: Engine, make_inspection: MakeInspection, make_loss: MakeLoss
) -> None:
    store(line_engine, [make_inspection(0), make_loss(first=1)])
    with write_transaction(line_engine) as connection:
        said = Label(1, LabelVerdict.NG, "ana", make_inspection(0).decided_utc, "cli")
        labels.add_labels(connection, "line1", [said])
        models.promote(
            connection, "line1", "b", instead_of="a", author="ana", reason="", now=said.at_utc
        )
    queries = [item[item.index("SELECT") :] for item in examples() if "SELECT" in item]

    with line_engine.connect() as connection:
        found = [len(connection.execute(text(query)).all()) for query in queries]

    assert found == [1] * 6
