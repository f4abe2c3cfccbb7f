from hypothesis import given
from hypothesis import strategies as st

from daemon.ingest.numbering import DaemonNumbering
from daemon.ingest.sequence import (
    MAX_EPOCHS_PER_CAMERA,
    Duplicate,
    Gap,
    SequenceTracker,
)


def test_numbers_in_order_leave_no_gap() -> None:
    tracker = SequenceTracker()

    assert [tracker.observe("cam1", 1, seq) for seq in range(3)] == [None] * 3


def test_missing_numbers_are_a_gap() -> None:
    tracker = SequenceTracker()
    tracker.observe("cam1", 1, 0)

    assert tracker.observe("cam1", 1, 4) == Gap(1, 3)


def test_joining_late_is_a_gap_from_zero() -> None:
    assert SequenceTracker().observe("cam1", 1, 5) == Gap(0, 4)


def test_a_repeated_or_late_number_is_a_duplicate() -> None:
    tracker = SequenceTracker()
    tracker.observe("cam1", 1, 5)

    assert tracker.observe("cam1", 1, 5) == Duplicate(5)
    assert tracker.observe("cam1", 1, 3) == Duplicate(5)


def test_a_new_epoch_counts_from_zero_again() -> None:
    tracker = SequenceTracker()
    tracker.observe("cam1", 1, 50)

    assert tracker.observe("cam1", 2, 0) is None
    assert tracker.observe("cam2", 1, 0) is None


def test_what_was_lost_while_the_daemon_was_down_is_a_gap() -> None:
    tracker = SequenceTracker({("cam1", 1): 90})

    assert tracker.observe("cam1", 1, 101) == Gap(91, 100)


def test_numbers_of_a_sender_that_outlived_a_long_stop_go_on() -> None:
    tracker = SequenceTracker({}, {("cam1", 1): 90, ("cam1", 2): 40, ("cam1", 3): 7})

    assert tracker.observe("cam1", 1, 95) == Gap(91, 94)
    assert tracker.observe("cam1", 1, 96) is None
    assert tracker.observe("cam1", 2, 40) == Duplicate(40)
    assert tracker.observe_last("cam1", 3, 7) is None
    assert tracker.last("cam1", 3, -1) == -1, "a reliable sender may bring what nobody looked for"
    tracker.join("cam1", 3, 0)
    assert tracker.observe("cam1", 3, 0) is None


def test_old_epochs_are_forgotten() -> None:
    tracker = SequenceTracker()
    for epoch in range(MAX_EPOCHS_PER_CAMERA + 1):
        tracker.observe("cam1", epoch, 0)

    assert tracker.observe("cam1", MAX_EPOCHS_PER_CAMERA, 0) == Duplicate(0)
    assert tracker.observe("cam1", 0, 0) is None


def test_known_epochs_of_earlier_starts_are_all_kept() -> None:
    many = range(3 * MAX_EPOCHS_PER_CAMERA)
    tracker = SequenceTracker({("cam1", epoch): 9 for epoch in many})

    assert [tracker.observe("cam1", epoch, 10) for epoch in many] == [None] * len(many)


arrivals = st.lists(st.sampled_from(["arrives", "lost", "twice"]), max_size=60)


@given(epochs=st.lists(arrivals, max_size=4))
def test_sent_is_received_less_duplicates_plus_gaps(epochs: list[list[str]]) -> None:
    """Up to the last number received: nothing tells of frames lost after it."""
    tracker, received, duplicates, gaps, sent = SequenceTracker(), 0, 0, 0, 0

    for epoch, fates in enumerate(epochs):
        last = max((seq for seq, fate in enumerate(fates) if fate != "lost"), default=-1)
        sent += last + 1
        for seq, fate in enumerate(fates):
            for _ in range({"arrives": 1, "lost": 0, "twice": 2}[fate]):
                received += 1
                match tracker.observe("cam1", epoch, seq):
                    case Gap() as gap:
                        gaps += gap.frames
                    case Duplicate():
                        duplicates += 1

    assert sent == received - duplicates + gaps


@given(seqs=st.lists(st.integers(0, 30), max_size=60))
def test_any_order_of_numbers_keeps_the_sum(seqs: list[int]) -> None:
    tracker, duplicates, gaps = SequenceTracker(), 0, 0

    for seq in seqs:
        match tracker.observe("cam1", 1, seq):
            case Gap() as gap:
                gaps += gap.frames
            case Duplicate():
                duplicates += 1

    assert max(seqs, default=-1) + 1 == len(seqs) - duplicates + gaps


def numbering() -> DaemonNumbering:
    epochs = iter(range(100, 200))
    return DaemonNumbering(lambda: next(epochs))


def test_a_sender_without_numbers_is_counted_here() -> None:
    numbers = numbering()

    ids = [numbers.number("cam1", None)[0] for _ in range(3)]

    assert [(frame_id.epoch, frame_id.seq) for frame_id in ids] == [(100, 0), (100, 1), (100, 2)]


def test_a_sender_whose_numbers_go_back_has_restarted() -> None:
    numbers = numbering()

    ids = [numbers.number("cam1", seq) for seq in (7, 9, 0)]

    assert [(frame_id.epoch, frame_id.seq, joined) for frame_id, joined in ids] == [
        (100, 7, True),
        (100, 9, False),
        (101, 0, True),
    ]
