import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.sources import CameraConfig, LimitsConfig, SourceConfig
from daemon.core import FrameLoss, LossReason
from daemon.ingest.admission import Admission, Admitted, ErrorFrame, Gatekeeper
from daemon.ingest.numbering import DaemonNumbering
from daemon.ingest.sequence import SequenceTracker

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9
SOURCE = SourceConfig(endpoint="inproc://frames")
NAMED_SOURCE = SourceConfig(endpoint="inproc://frames", camera="cam2")


def gatekeeper() -> Gatekeeper:
    epochs = itertools.count(100)
    return Gatekeeper(
        cameras={"cam1": CameraConfig(), "cam2": CameraConfig(category="fabric")},
        categories=("fabric", "wood"),
        limits=LimitsConfig(max_payload_bytes=1024, max_clock_skew_s=60),
        tracker=SequenceTracker(),
        numbering=DaemonNumbering(lambda: next(epochs)),
    )


def admit(keeper: Gatekeeper, parts: list[bytes], source: SourceConfig = SOURCE) -> Admission:
    return keeper.admit(parts, source, received_utc=NOW, received_at=5.0)


def message(payload: bytes = b"x", **changes: object) -> list[bytes]:
    fields = {
        "v": 1,
        "camera": "cam1",
        "epoch": 1,
        "seq": 0,
        "ts_ns": NOW_NS,
        "category": "fabric",
        "encoding": "jpeg",
    } | changes
    header = {name: value for name, value in fields.items() if value is not None}
    return [b"line/cam1", json.dumps(header).encode(), payload]


def imagezmq(msg: object) -> list[bytes]:
    return [json.dumps({"msg": msg}).encode(), b"x"]


def error_of(admission: Admission) -> ErrorFrame:
    assert isinstance(admission.outcome, ErrorFrame)
    return admission.outcome


def loss_of(admission: Admission) -> FrameLoss:
    assert isinstance(admission.outcome, FrameLoss)
    return admission.outcome


def admitted(admission: Admission) -> Admitted:
    assert isinstance(admission.outcome, Admitted)
    return admission.outcome


def test_a_good_frame_is_admitted_with_its_facts() -> None:
    info = admitted(admit(gatekeeper(), message(part_id="P1", ts_ns=NOW_NS - 10**9))).info

    assert (info.frame_id.camera, info.frame_id.epoch, info.frame_id.seq) == ("cam1", 1, 0)
    assert (info.category, info.part_id, info.received_at) == ("fabric", "P1", 5.0)
    assert info.captured_utc == NOW - timedelta(seconds=1)


def test_the_category_of_the_camera_is_the_default_and_the_frame_overrules_it() -> None:
    keeper = gatekeeper()

    default = admitted(admit(keeper, message(camera="cam2", category=None)))
    named = admitted(admit(keeper, message(camera="cam2", category="wood", seq=1)))

    assert (default.info.category, named.info.category) == ("fabric", "wood")


def test_an_unknown_category_is_an_error_row() -> None:
    error = error_of(admit(gatekeeper(), message(category="leather")))

    assert (error.reason, error.info.category) == (LossReason.UNKNOWN_CATEGORY, "leather")
    assert "fabric, wood" in error.detail


def test_no_category_at_all_is_an_error_row() -> None:
    error = error_of(admit(gatekeeper(), message(category=None)))

    assert (error.reason, error.info.category) == (LossReason.UNKNOWN_CATEGORY, "unknown")


def test_a_clock_in_the_future_is_an_error_row_with_the_daemons_time() -> None:
    keeper = gatekeeper()

    error = error_of(admit(keeper, message(ts_ns=NOW_NS + 61 * 10**9)))
    within = admit(keeper, message(ts_ns=NOW_NS + 59 * 10**9, seq=1))

    assert (error.reason, error.info.captured_utc) == (LossReason.CLOCK, NOW)
    assert "61.0 s ahead" in error.detail
    admitted(within)


@pytest.mark.parametrize("ts_ns", [0, 2**63 - 1])
def test_the_ends_of_time_do_no_harm(ts_ns: int) -> None:
    assert admit(gatekeeper(), message(ts_ns=ts_ns)).outcome is not None


def test_an_unknown_camera_is_a_loss_that_names_it() -> None:
    loss = loss_of(admit(gatekeeper(), message(camera="spy", seq=9)))

    assert (loss.reason, loss.camera, loss.first_seq) == (LossReason.UNKNOWN_CAMERA, "spy", 9)


def test_unknown_cameras_leave_nothing_behind() -> None:
    keeper = gatekeeper()

    admissions = [admit(keeper, message(camera=f"spy{n}", seq=5)) for n in range(50)]

    assert all(admission.gap is None for admission in admissions)
    assert not keeper._tracker._last  # the memory that must not grow


def test_garbage_is_a_loss_without_identity() -> None:
    loss = loss_of(admit(gatekeeper(), [b"a", b"b", b"c"]))

    assert (loss.reason, loss.camera, loss.frames) == (LossReason.BAD_MESSAGE, None, 1)


def test_a_refused_header_that_tells_its_number_is_an_error_row_and_no_gap() -> None:
    keeper = gatekeeper()
    admit(keeper, message(seq=0))

    error = error_of(admit(keeper, message(seq=1, encoding="tiff")))
    after = admit(keeper, message(seq=2))

    assert (error.reason, error.info.frame_id.seq) == (LossReason.BAD_MESSAGE, 1)
    assert after.gap is None


def test_a_refused_header_without_number_is_a_loss_of_its_camera() -> None:
    loss = loss_of(admit(gatekeeper(), message(seq="x")))

    assert (loss.reason, loss.camera) == (LossReason.BAD_MESSAGE, "cam1")


def test_an_oversized_payload_is_an_error_row() -> None:
    error = error_of(admit(gatekeeper(), message(payload=b"x" * 1025)))

    assert error.reason is LossReason.TOO_LARGE


def test_a_duplicate_is_a_loss_even_when_it_is_damaged() -> None:
    keeper = gatekeeper()
    admit(keeper, message(seq=0))

    losses = [loss_of(admit(keeper, message(seq=0))), loss_of(admit(keeper, message(seq=0, v=2)))]

    assert [loss.reason for loss in losses] == [LossReason.DUPLICATE] * 2


def test_a_gap_is_reported_beside_the_frame_that_shows_it() -> None:
    keeper = gatekeeper()
    admit(keeper, message(seq=0))

    admission = admit(keeper, message(seq=4, category="leather"))

    assert admission.gap is not None
    assert (admission.gap.first_seq, admission.gap.last_seq) == (1, 3)
    error_of(admission)


def test_imagezmq_frames_are_numbered_here() -> None:
    keeper = gatekeeper()

    infos = [admitted(admit(keeper, imagezmq("cam2"))).info for _ in range(3)]

    assert [info.frame_id.seq for info in infos] == [0, 1, 2]
    assert {info.frame_id.epoch for info in infos} == {100}
    assert infos[0].captured_utc == NOW


def test_numbers_in_an_imagezmq_message_show_gaps_from_the_first_on() -> None:
    keeper = gatekeeper()

    gaps = [
        admit(keeper, imagezmq({"camera": "cam2", "seq": seq})).gap for seq in (70, 71, 74, 0, 1)
    ]

    assert [gap and (gap.first_seq, gap.last_seq) for gap in gaps] == [
        None,
        None,
        (72, 73),
        None,
        None,
    ]


def test_an_unnamed_imagezmq_frame_belongs_to_the_camera_of_its_source() -> None:
    keeper = gatekeeper()

    named = admitted(admit(keeper, imagezmq(""), NAMED_SOURCE))
    unnamed = loss_of(admit(keeper, imagezmq(""), SOURCE))

    assert named.info.frame_id.camera == "cam2"
    assert unnamed.reason is LossReason.UNKNOWN_CAMERA


CAMERAS = st.sampled_from(["cam1", "cam2", "spy", "", None, 5])


@given(
    messages=st.lists(
        st.one_of(
            st.lists(st.binary(max_size=50), max_size=4),
            st.builds(
                message,
                camera=CAMERAS,
                seq=st.one_of(st.integers(0, 20), st.none(), st.text(max_size=2)),
                category=st.sampled_from(["fabric", "leather", None, "\0"]),
                ts_ns=st.integers(0, 2**63 - 1),
                v=st.integers(1, 2),
            ),
            st.builds(imagezmq, st.one_of(CAMERAS, st.dictionaries(st.text(), CAMERAS))),
        ),
        max_size=20,
    )
)
def test_any_messages_are_decided_and_never_raise(messages: list[list[bytes]]) -> None:
    keeper = gatekeeper()

    for parts in messages:
        outcome = admit(keeper, parts, NAMED_SOURCE).outcome
        assert isinstance(outcome, Admitted | ErrorFrame | FrameLoss)
        if isinstance(outcome, ErrorFrame):
            assert outcome.info.frame_id.camera in ("cam1", "cam2")
