from collections.abc import Callable

from sqlalchemy import Engine

from daemon.core import Inspection, Verdict
from daemon.storage import deliveries, repository
from daemon.storage.database import write_transaction

MakeInspection = Callable[..., Inspection]


def store(engine: Engine, *inspections: Inspection) -> None:
    with write_transaction(engine) as connection:
        repository.add_results(connection, "line1", inspections)


def test_a_new_receiver_starts_behind_what_is_stored(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    store(line_engine, make_inspection(0))

    with write_transaction(line_engine) as connection:
        start = deliveries.open_cursor(connection, "line1", "webhook")
    store(line_engine, make_inspection(1))

    with line_engine.connect() as connection:
        _, messages = deliveries.verdicts_after(connection, "line1", start, ["NG"], 10)
    assert [message.seq for message in messages] == [1]


def test_a_cursor_is_found_again_where_it_was_moved(line_engine: Engine) -> None:
    with write_transaction(line_engine) as connection:
        deliveries.open_cursor(connection, "line1", "webhook")
        deliveries.move_cursor(connection, "line1", "webhook", 41)

    with write_transaction(line_engine) as connection:
        assert deliveries.open_cursor(connection, "line1", "webhook") == 41
        assert deliveries.open_cursor(connection, "line1", "mqtt") == 0


def test_pages_cover_every_wanted_verdict_once_and_pass_over_the_rest(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    verdicts = [Verdict.OK, Verdict.NG, Verdict.OK, Verdict.NG, Verdict.NG, Verdict.OK]
    store(line_engine, *(make_inspection(n, verdict=v) for n, v in enumerate(verdicts)))

    place, seqs = 0, []
    for _ in range(4):
        with line_engine.connect() as connection:
            place, messages = deliveries.verdicts_after(connection, "line1", place, ["NG"], 2)
        seqs.append([message.seq for message in messages])

    assert seqs == [[1, 3], [4], [], []]


def test_a_message_from_the_database_says_what_the_inspection_was(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    inspection = make_inspection(5)
    store(line_engine, inspection)

    with line_engine.connect() as connection:
        _, (message,) = deliveries.verdicts_after(connection, "line1", 0, ["NG"], 10)

    assert (message.part_id, message.regions) == ("part5", inspection.regions)
    assert (message.ng_threshold, message.model_version) == (0.6, "aa-clip-1")
    assert message.inspection_id is not None
