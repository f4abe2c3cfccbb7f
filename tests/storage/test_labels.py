"""Labels in the database: history, protection from retention, names of files."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import IntegrityError

from daemon.config.retention import RetentionConfig
from daemon.core import FrameId, Inspection, Label, LabelVerdict, Verdict
from daemon.errors import StorageError
from daemon.storage import labels, partitions, repository, retention
from daemon.storage.database import write_transaction
from daemon.storage.tables import InspectionRow, LabelRow, ThumbnailRow

MakeInspection = Callable[..., Inspection]


@pytest.fixture
def label(now: datetime) -> Label:
    return Label(1, LabelVerdict.NG, "ana", now, "cli", "scratch", b"png", "deep")


def store(engine: Engine, *inspections: Inspection) -> None:
    with write_transaction(engine) as connection:
        repository.add_results(connection, "line1", inspections)


def say(engine: Engine, *said: Label) -> None:
    with write_transaction(engine) as connection:
        labels.add_labels(connection, "line1", said)


def test_a_correction_is_in_force_and_the_first_label_stays(
    line_engine: Engine, make_inspection: MakeInspection, label: Label
) -> None:
    store(line_engine, make_inspection(0), make_inspection(1))
    corrected = replace(label, verdict=LabelVerdict.OK, defect=None, mask_png=None, author="ben")
    say(line_engine, label, replace(label, inspection_id=2))

    say(line_engine, corrected)

    with line_engine.connect() as connection:
        in_force = list(labels.labels_in_force(connection, "line1"))
        history = labels.label_history(connection, "line1", 1)
        other_line = list(labels.labels_in_force(connection, "line2"))
    assert [row.label for row in in_force] == [corrected, replace(label, inspection_id=2)]
    assert [row.label for row in history] == [corrected, label]
    assert in_force[0].frame_id == FrameId("cam1", 7, 0)
    assert other_line == []


def test_v_label_shows_the_label_beside_the_machines_verdict(
    line_engine: Engine, make_inspection: MakeInspection, label: Label
) -> None:
    store(line_engine, make_inspection(0))
    say(line_engine, replace(label, verdict=LabelVerdict.UNCERTAIN), label)

    with line_engine.connect() as connection:
        (row,) = connection.execute(text("SELECT * FROM v_label")).all()

    assert (row.inspection_id, row.label, row.verdict, row.defect) == (1, "NG", "NG", "scratch")
    assert (row.has_mask, row.corrections, row.part_id) == (1, 1, "part0")
    assert row.labelled_utc == "2026-01-31T05:59:59.123456Z"


def test_what_is_labelled_outlives_its_retention(
    line_engine: Engine, make_inspection: MakeInspection, label: Label, now: datetime
) -> None:
    store(line_engine, *(make_inspection(n, verdict=Verdict.OK) for n in range(5)))
    if line_engine.dialect.name == "postgresql":
        with write_transaction(line_engine) as connection:
            partitions.prepare_days(connection, now.date())
    say(line_engine, replace(label, inspection_id=3))
    ages = RetentionConfig(pictures_days={"OK": 30, "LEARNING": 30}, rows_days={"OK": 60})
    later = now + timedelta(days=90)

    list(retention.prune(line_engine, retention.rules_of(ages, later)))
    list(retention.shrink(line_engine, 1 << 40, later))

    with line_engine.connect() as connection:
        assert connection.scalars(select(InspectionRow.id)).all() == [3]
        assert connection.scalars(select(ThumbnailRow.inspection_id)).all() == [3]


def test_no_statement_deletes_a_labelled_inspection(
    line_engine: Engine, make_inspection: MakeInspection, label: Label
) -> None:
    store(line_engine, make_inspection(0))
    say(line_engine, label)

    with pytest.raises(IntegrityError), write_transaction(line_engine) as connection:
        connection.execute(text("DELETE FROM inspection"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inspection_id": 9}, "line 'line1' has no inspection 9"),
        ({"verdict": LabelVerdict.OK}, "an OK label has no defect and no mask"),
        ({"note": "x" * 2001}, "the note has 2001 characters, limit 2000"),
        ({"author": "x" * 65}, "the author has 65 characters, limit 64"),
    ],
)
def test_a_label_that_cannot_be_is_refused_with_all_of_its_batch(
    line_engine: Engine,
    make_inspection: MakeInspection,
    label: Label,
    change: dict[str, Any],
    message: str,
) -> None:
    store(line_engine, make_inspection(0))

    with pytest.raises(StorageError, match=message):
        say(line_engine, label, replace(label, **change))

    with line_engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(LabelRow)) == 0


def test_file_names_find_their_inspection(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    twice = make_inspection(2, camera="left-cam")
    store(line_engine, *(make_inspection(n) for n in range(2)), twice, make_inspection(3))
    numbered = make_inspection(4)
    store(line_engine, replace(numbered, info=replace(numbered.info, part_id="3")))
    names = (
        "left-cam-7-2",
        "part1",
        "inspection-4",
        "2-photo",
        "3",
        "part9",
        "cam1-7-99",
        "1" * 30,
    )

    with line_engine.connect() as connection:
        found = labels.match_names(connection, "line1", names)
        elsewhere = labels.match_names(connection, "line2", names)

    assert found == {
        "left-cam-7-2": (3,),
        "part1": (2,),
        "inspection-4": (4,),
        "2-photo": (2,),
        "3": (3, 5),
        "part9": (),
        "cam1-7-99": (),
        "1" * 30: (),
    }
    assert set(elsewhere.values()) == {()}


def test_the_name_of_every_frame_finds_it_again(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    cameras = ("cam1", "cam-1", "1-2", "a.b")
    made = [make_inspection(seq, camera=camera) for camera in cameras for seq in (0, 2**53)]
    store(line_engine, *made)
    names = [labels.frame_name(item.info.frame_id) for item in made]

    with line_engine.connect() as connection:
        found = labels.match_names(connection, "line1", names)

    assert found == {name: (number,) for number, name in enumerate(names, start=1)}
