"""What to label next: REVIEW, near, novel, and an audit share that stays the same all day."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from daemon.core import Inspection, Label, LabelVerdict, LossReason, Verdict
from daemon.report.label_queue import NEAR, Candidate, Queued, choose, read_queue
from daemon.storage import labels, repository
from daemon.storage.database import write_transaction

MakeInspection = Callable[..., Inspection]


@pytest.fixture
def frame(now: datetime) -> Callable[..., Candidate]:
    """A frame whose normalised score equals its score."""

    def make(
        number: int, score: float | None, verdict: Verdict = Verdict.OK, camera: str = "cam1"
    ) -> Candidate:
        return Candidate(number, camera, "fabric", now, verdict, score, 0.5, None)

    return make


MakeFrame = Callable[..., Candidate]


def reasons(queue: list[Queued]) -> list[tuple[str, int]]:
    return [(queued.reason, queued.frame.inspection_id) for queued in queue]


def test_review_comes_first_then_the_nearest_to_the_threshold(frame: MakeFrame) -> None:
    unlabelled = [
        frame(1, 0.45),
        frame(2, 0.3, Verdict.REVIEW),
        frame(3, 0.52, Verdict.NG),
        frame(4, 0.42, Verdict.REVIEW),
        frame(5, 0.1),
    ]

    queue = choose(unlabelled, [], [], 4)

    assert reasons(queue)[:3] == [("review", 4), ("review", 2), ("near_threshold", 3)]


def test_novel_frames_lie_farthest_from_all_labelled_ones(frame: MakeFrame) -> None:
    unlabelled = [frame(n, score) for n, score in enumerate((0.1, 0.12, 0.3, 0.95, 0.9), 1)]

    queue = choose(unlabelled, [frame(9, 0.1)], [], 2)

    assert reasons(queue) == [("novel", 4), ("novel", 3)]
    assert queue[0].why == "its score is 0.850 (normalised) away from every labelled one"


def test_a_camera_without_labels_is_novel(frame: MakeFrame) -> None:
    unlabelled = [frame(1, 0.9), frame(2, 0.1, camera="cam2")]

    queue = choose(unlabelled, [frame(9, 0.1)], [], 1)

    assert reasons(queue) == [("novel", 2)]
    assert queue[0].why == "no frame of fabric from cam2 is labelled yet"


def test_what_is_like_a_labelled_frame_is_not_asked_again(frame: MakeFrame) -> None:
    assert choose([frame(1, 0.1), frame(2, None)], [frame(9, 0.1)], [], 5) == []


def test_frames_that_image_and_map_judge_differently_get_a_tenth(frame: MakeFrame) -> None:
    def heads(number: int, score: float, peak: float) -> Candidate:
        return replace(frame(number, score, Verdict.NG), map_peak=peak, map_threshold=0.25)

    unlabelled = [
        *(frame(number, 0.5, Verdict.REVIEW) for number in range(10, 30)),
        heads(1, 0.9, 0.2),  # normalised 0.9 and 0.4
        heads(2, 0.7, 0.9),  # they agree
        heads(3, 0.3, 1.0),
        heads(4, 0.52, 0.24),  # so little may be chance
    ]

    queue = choose(unlabelled, [frame(9, 0.9)], [], 20)

    disputed = [queued for queued in queue if queued.reason == "disagreement"]
    assert [queued.frame.inspection_id for queued in disputed] == [3, 1]
    assert [queued.why for queued in disputed] == [
        "the score of the image says not NG, the map NG, 0.700 apart (normalised)",
        "the score of the image says NG, the map not, 0.500 apart (normalised)",
    ]
    assert len(queue) == 20


@given(
    scores=st.lists(st.none() | st.floats(0, 1), max_size=12),
    n_audit=st.integers(0, 4),
    limit=st.integers(1, 12),
    data=st.data(),
)
def test_the_queue_names_each_frame_once_and_keeps_its_limit(
    scores: list[float | None], n_audit: int, limit: int, data: st.DataObject
) -> None:
    verdicts = st.sampled_from((Verdict.OK, Verdict.REVIEW, Verdict.NG))
    at = datetime.fromisoformat("2026-01-31T06:00:00Z")
    frames = [
        Candidate(number, "cam1", "fabric", at, data.draw(verdicts), score, 0.5, None)
        for number, score in enumerate(scores)
    ]

    queue = choose(frames, [], frames[:n_audit], limit)

    found = [queued.frame.inspection_id for queued in queue]
    assert len(set(found)) == len(found) <= limit
    doubtful = [f for f in frames if f.verdict is Verdict.REVIEW or f.distance <= NEAR]
    if doubtful:
        assert queue[0].reason in ("review", "near_threshold") or n_audit
    if len(frames) >= limit > 1 and n_audit and len(doubtful) > n_audit:
        assert Counter(queued.reason for queued in queue)["audit"] <= max(1, limit // 10 + 1)


def test_the_queue_of_a_line_leaves_out_what_is_labelled_or_cannot_be_shown(
    line_engine: Engine, make_inspection: MakeInspection, now: datetime
) -> None:
    review = {"verdict": Verdict.REVIEW, "pred_score": 0.5}
    error = {
        "verdict": Verdict.ERROR,
        "error_reason": LossReason.FLAT,
        "error_detail": "flat",
        "pred_score": None,
        "map_peak": None,
        "calibration": None,
    }
    old = make_inspection(4, received_utc=now - timedelta(days=9), **review)
    made = [
        make_inspection(0, **review),
        make_inspection(1, **review),
        make_inspection(2, thumbnails=None, **review),
        make_inspection(3, **error),
        old,
    ]
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", made)
        said = Label(2, LabelVerdict.UNCERTAIN, "ana", now, "cli")
        labels.add_labels(connection, "line1", [said, replace(said, author="ben")])

    with line_engine.connect() as connection:
        queue = read_queue(connection, "line1", now - timedelta(days=7), now, 10)
        of_another_line = read_queue(connection, "line2", now - timedelta(days=7), now, 10)

    assert reasons(queue) == [("review", 1)]
    assert (queue[0].frame.map_peak, queue[0].frame.map_threshold) == (0.875, 0.5)
    assert not queue[0].frame.has_frame
    assert of_another_line == []


def test_the_audit_stays_the_same_all_day_and_shrinks_as_it_is_done(
    line_engine: Engine, make_inspection: MakeInspection, now: datetime
) -> None:
    ok = {"verdict": Verdict.OK, "pred_score": 0.1}
    today, since = now.replace(hour=0, minute=0, second=0, microsecond=0), now - timedelta(days=7)
    before = [make_inspection(n, received_utc=today - timedelta(hours=2), **ok) for n in range(200)]

    def audit(day: datetime) -> list[int]:
        with line_engine.connect() as connection:
            queue = read_queue(connection, "line1", since, day, 50)
        return [q.frame.inspection_id for q in queue if q.reason == "audit"]

    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", before)
    first = audit(today)
    with write_transaction(line_engine) as connection:
        more = [
            make_inspection(n, received_utc=today + timedelta(1), **ok) for n in range(200, 250)
        ]
        repository.add_results(connection, "line1", more)
        said = Label(first[0], LabelVerdict.OK, "ana", now, "cli")
        labels.add_labels(connection, "line1", [said, said])

    assert len(first) == 5
    assert set(audit(today)) == set(first[1:])
    assert set(audit(today - timedelta(minutes=1))) != set(first), "another day, another share"
