from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import Session

from daemon.core import (
    Calibration,
    FrameId,
    FrameInfo,
    FrameLoss,
    Inspection,
    LossReason,
    Region,
    Thumbnails,
    Verdict,
)
from daemon.errors import StorageError
from daemon.storage import repository
from daemon.storage.database import write_transaction
from daemon.storage.repository import MissingRange, Stored
from daemon.storage.tables import (
    FrameLossRow,
    InspectionRow,
    ModelVersionRow,
    RegionRow,
    ThumbnailRow,
)

MakeInspection = Callable[..., Inspection]
MakeLoss = Callable[..., FrameLoss]

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
TEXTS = st.none() | st.text(
    st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=128
)
NUMBERS = st.integers(0, 2**63 - 1)
OFFSETS = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=OFFSETS)  # noqa: DTZ001
UNIT = st.floats(0, 1)
PIXELS = st.integers(0, 2**31 - 1)
REGIONS = st.builds(Region, PIXELS, PIXELS, PIXELS, PIXELS, PIXELS, UNIT)
INFOS = st.builds(
    FrameInfo,
    frame_id=st.builds(FrameId, NAMES, NUMBERS, NUMBERS),
    category=NAMES,
    captured_utc=TIMES,
    received_utc=TIMES,
    received_at=st.just(0.0),
    part_id=TEXTS,
    lot=TEXTS,
    trigger_id=TEXTS,
)
INSPECTIONS = st.builds(
    Inspection,
    info=INFOS,
    verdict=st.sampled_from([Verdict.OK, Verdict.NG, Verdict.REVIEW, Verdict.LEARNING]),
    model_version=st.just("aa-clip-1"),
    decided_utc=TIMES,
    frame_to_verdict_s=st.floats(0, 1e6),
    width_px=st.none() | PIXELS,
    height_px=st.none() | PIXELS,
    pred_score=st.none() | UNIT,
    map_peak=st.none() | UNIT,
    calibration=st.none(),
    regions=st.lists(REGIONS, max_size=3).map(tuple),
    thumbnails=st.none() | st.builds(Thumbnails, st.binary(), st.binary(), st.binary()),
)


def read_back(session: Session, frame_id: FrameId) -> Inspection:
    row, version = session.execute(
        select(InspectionRow, ModelVersionRow.name)
        .join(ModelVersionRow, ModelVersionRow.id == InspectionRow.model_version_id)
        .where(
            InspectionRow.camera == frame_id.camera,
            InspectionRow.epoch == frame_id.epoch,
            InspectionRow.seq == frame_id.seq,
        )
    ).one()
    regions = session.scalars(
        select(RegionRow).where(RegionRow.inspection_id == row.id).order_by(RegionRow.id)
    )
    pictures = session.get(ThumbnailRow, row.id)
    return Inspection(
        info=FrameInfo(
            FrameId(row.camera, row.epoch, row.seq),
            row.category,
            row.captured_utc,
            row.received_utc,
            0.0,
            row.part_id,
            row.lot,
            row.trigger_id,
        ),
        verdict=Verdict(row.verdict),
        model_version=version,
        decided_utc=row.decided_utc,
        frame_to_verdict_s=row.frame_to_verdict_ms / 1000,
        width_px=row.width_px,
        height_px=row.height_px,
        pred_score=row.pred_score,
        map_peak=row.map_peak,
        regions=tuple(
            Region(r.x_px, r.y_px, r.width_px, r.height_px, r.area_px, r.peak) for r in regions
        ),
        thumbnails=None
        if pictures is None
        else Thumbnails(pictures.photo_jpeg, pictures.overlay_jpeg, pictures.map_png),
    )


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(inspection=INSPECTIONS)
def test_an_inspection_reads_back_as_it_was(line_engine: Engine, inspection: Inspection) -> None:
    connection = line_engine.connect()
    with connection, connection.begin() as transaction, Session(connection) as session:
        repository.add_results(connection, "line1", [inspection])

        found = read_back(session, inspection.info.frame_id)
        transaction.rollback()

    assert found.frame_to_verdict_s == pytest.approx(inspection.frame_to_verdict_s)
    assert replace(found, frame_to_verdict_s=inspection.frame_to_verdict_s) == inspection


def test_thresholds_in_force_are_columns_of_the_row(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [make_inspection()])

    with line_engine.connect() as connection:
        row = connection.execute(select(InspectionRow)).one()
    assert (row.review_threshold, row.ng_threshold, row.map_threshold) == (0.4, 0.6, 0.5)


def test_a_frame_is_stored_once_with_its_children(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    first, again = make_inspection(1), make_inspection(1, verdict=Verdict.OK)
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [first])

    with write_transaction(line_engine) as connection:
        stored = repository.add_results(
            connection, "line1", [again, make_inspection(2), make_inspection(2)]
        )

    duplicates = (FrameId("cam1", 7, 1), FrameId("cam1", 7, 2))
    assert stored == Stored(inspections=1, losses=0, duplicates=duplicates)
    with Session(line_engine) as session:
        verdicts = session.scalars(select(InspectionRow.verdict).order_by(InspectionRow.seq)).all()
        assert verdicts == ["NG", "NG"]
        assert session.scalar(select(func.count()).select_from(RegionRow)) == 2
        assert session.scalar(select(func.count()).select_from(ThumbnailRow)) == 2


def test_losses_and_inspections_share_a_transaction(
    line_engine: Engine, make_inspection: MakeInspection, make_loss: MakeLoss
) -> None:
    def store_both() -> None:
        with write_transaction(line_engine) as connection:
            repository.add_results(connection, "line1", [make_loss()])
            repository.add_results(connection, "line1", [make_inspection(model_version="unknown")])

    with pytest.raises(StorageError, match=r"model versions \['unknown'\] are not registered"):
        store_both()

    with line_engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(FrameLossRow)) == 0


def test_a_naive_datetime_is_refused(line_engine: Engine, make_inspection: MakeInspection) -> None:
    naive = make_inspection(decided_utc=datetime(2026, 1, 31))  # noqa: DTZ001

    with (
        pytest.raises((StatementError, ValueError), match="naive datetime"),
        write_transaction(line_engine) as connection,
    ):
        repository.add_results(connection, "line1", [naive])


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": Verdict.ERROR, "error_reason": None},
        {"verdict": Verdict.OK, "error_reason": LossReason.CLOCK},
    ],
)
def test_the_database_refuses_an_error_without_reason_and_a_reason_without_error(
    line_engine: Engine, make_inspection: MakeInspection, change: dict[str, object]
) -> None:
    with (
        pytest.raises(StatementError, match="error_has_reason"),
        write_transaction(line_engine) as connection,
    ):
        repository.add_results(connection, "line1", [make_inspection(**change)])


def test_text_from_a_hostile_message_is_stored(line_engine: Engine, now: datetime) -> None:
    loss = FrameLoss(
        LossReason.UNKNOWN_CAMERA, now, "camera 'a\x00b\ud800'", camera="a\x00" + 200 * "x"
    )

    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [loss])

    with line_engine.connect() as connection:
        row = connection.execute(select(FrameLossRow)).one()
    assert row.detail == "camera 'a\ufffdb?'"
    assert row.camera == "a\ufffd" + 62 * "x"


def test_the_newest_calibration_of_the_model_version_is_in_force(
    line_engine: Engine, calibration: Calibration, now: datetime
) -> None:
    newer = replace(calibration, ng_threshold=0.9, is_supported=True)
    other = replace(calibration, category="metal")
    with write_transaction(line_engine) as connection:
        repository.ensure_model_version(
            connection, name="aa-clip-2", method="aa_clip", backbone="b", card_json="{}", now=now
        )
        foreign = replace(calibration, model_version="aa-clip-2", ng_threshold=0.1)
        for item in (calibration, newer, other, foreign):
            repository.add_calibration(connection, item)

    with line_engine.connect() as connection:
        current = repository.current_calibrations(connection, "aa-clip-1")

    assert current == [newer, other]


def test_a_calibration_of_an_unknown_model_version_is_refused(
    engine: Engine, calibration: Calibration
) -> None:
    with (
        pytest.raises(StorageError, match="aa-clip-1"),
        write_transaction(engine) as connection,
    ):
        repository.add_calibration(connection, calibration)


def test_a_model_version_is_registered_once(line_engine: Engine, now: datetime) -> None:
    with write_transaction(line_engine) as connection:
        ids = {
            repository.ensure_model_version(
                connection, name="x", method=method, backbone="b", card_json="{}", now=now
            )
            for method in ("first", "second")
        }

    with line_engine.connect() as connection:
        row = connection.execute(select(ModelVersionRow).where(ModelVersionRow.name == "x")).one()
    assert ids == {row.id}
    assert row.method == "first"


def test_learning_scores_are_those_of_one_category_and_version_in_order(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    learning = [
        make_inspection(
            seq, verdict=Verdict.LEARNING, pred_score=seq / 10, map_peak=seq / 5, calibration=None
        )
        for seq in (3, 1, 2)
    ]
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [*learning, make_inspection(9)])

    with line_engine.connect() as connection:
        scores = repository.learning_scores(connection, "fabric", "aa-clip-1")
        other = repository.learning_scores(connection, "metal", "aa-clip-1")

    assert sorted(scores.pred_scores) == [0.1, 0.2, 0.3]
    assert [peak / 2 for peak in scores.map_peaks] == pytest.approx(scores.pred_scores)
    assert other.pred_scores == ()


def test_outermost_sequences_count_losses_and_forget_old_epochs(
    line_engine: Engine, make_inspection: MakeInspection, make_loss: MakeLoss, now: datetime
) -> None:
    old = make_inspection(99, epoch=1, received_utc=now - timedelta(days=3))
    results = [
        make_inspection(4),
        make_loss(first=5, last=8),
        make_inspection(2, camera="cam2"),
        old,
    ]
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", results)

    with line_engine.connect() as connection:
        last = repository.last_sequences(connection, now - timedelta(days=1))

        first = repository.first_sequences(connection, now - timedelta(days=1))

    assert last == {("cam1", 7): 8, ("cam2", 7): 2}
    assert first == {("cam1", 7): 4, ("cam2", 7): 2}


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kinds=st.lists(st.sampled_from(["row", "loss", "hole"]), min_size=1, max_size=40),
    depth=st.integers(1, 60),
)
def test_missing_sequences_are_exactly_the_holes(
    line_engine: Engine,
    make_inspection: MakeInspection,
    make_loss: MakeLoss,
    now: datetime,
    kinds: list[str],
    depth: int,
) -> None:
    made = {"row": make_inspection, "loss": lambda seq: make_loss(LossReason.QUEUE_FULL, seq)}
    known = [seq for seq, kind in enumerate(kinds) if kind != "hole"]
    connection = line_engine.connect()
    with connection, connection.begin() as transaction:
        repository.add_results(
            connection, "line1", [made[kinds[seq]](seq) for seq in reversed(known)]
        )

        ranges = repository.missing_sequences(connection, now, depth)
        transaction.rollback()

    holes = {seq for item in ranges for seq in range(item.first_seq, item.last_seq + 1)}
    begin = max(known[-1] - depth + 1, 0) if known else 0
    seen = [seq for seq in known if seq >= begin]
    assert (
        holes == {seq for seq in range(min(seen), max(seen)) if seq not in known} if seen else True
    )


def test_a_gap_loss_closes_the_hole(
    line_engine: Engine, make_inspection: MakeInspection, make_loss: MakeLoss, now: datetime
) -> None:
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [make_inspection(0), make_inspection(10)])
        before = repository.missing_sequences(connection, now)
        repository.add_results(connection, "line1", [make_loss(LossReason.GAP, 1, 9)])
        after = repository.missing_sequences(connection, now)

    assert before == [MissingRange("cam1", 7, 1, 9)]
    assert after == []


def test_a_name_that_is_too_long_is_refused_and_not_cut_off(
    postgres_engine: Engine,
    register: Callable[[Engine], None],
    make_inspection: Callable[..., Inspection],
) -> None:
    register(postgres_engine)

    with (
        pytest.raises(DBAPIError, match="too long"),
        write_transaction(postgres_engine) as connection,
    ):
        repository.add_results(connection, "line1", [make_inspection(camera="c" * 65)])


def test_a_batch_is_claimed_once(engine: Engine, now: datetime) -> None:
    with write_transaction(engine) as connection:
        run_id = repository.start_run(connection, "line1", now)

    before = []
    for last in (1, 1, 5, 3, 6):
        with write_transaction(engine) as connection:
            before.append(repository.claim_batches(connection, run_id, last))

    assert before == [0, 1, 1, 5, 5]


def test_a_deleted_run_stops_the_writer(engine: Engine) -> None:
    with (
        pytest.raises(StorageError, match="daemon_run 5 was deleted"),
        write_transaction(engine) as connection,
    ):
        repository.claim_batches(connection, 5, 1)
