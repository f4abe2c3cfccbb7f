from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from daemon.ingest.holes import MAX_HOLE, Holes
from daemon.ingest.sequence import Gap

START = ("cam1", 1)


def test_a_number_that_comes_again_is_no_hole_any_more() -> None:
    holes = Holes({START: [Gap(3, 5)]}, {START: 0})

    holes.fill(START, 4)

    assert [holes.has(START, seq) for seq in range(2, 7)] == [False, True, False, True, False]
    assert holes.give_up(START, 0, 100) == [Gap(3, 3), Gap(5, 5)]
    assert holes.starts() == []


def test_a_sender_is_asked_for_what_it_keeps_from_before_the_first_stored_number() -> None:
    holes = Holes({}, {START: 5})

    holes.open_above(START, 2)

    assert holes.lowest(START) == 3
    assert holes.give_up(START, 0, 100) == [Gap(3, 4)]


def test_a_sender_that_claims_to_keep_everything_costs_bounded_memory() -> None:
    holes = Holes({}, {START: 2**40})

    holes.open_above(START, -1)

    assert holes.lowest(START) == 2**40 - MAX_HOLE


def test_a_greeting_counts_once() -> None:
    holes = Holes({}, {START: 5})
    holes.open_above(START, -1)
    for seq in range(5):
        holes.fill(START, seq)

    holes.open_above(START, -1)

    assert holes.lowest(START) is None


@given(missing=st.sets(st.integers(0, 40)), came=st.sets(st.integers(0, 40)))
def test_every_missing_number_comes_or_is_given_up(missing: set[int], came: set[int]) -> None:
    holes = Holes({START: [Gap(seq, seq) for seq in missing]}, {})

    for seq in came:
        holes.fill(START, seq)
    lost = holes.give_up(START, 0, 40)

    assert sum(gap.frames for gap in lost) == len(missing - came)
    assert all(after.first_seq > before.last_seq + 1 for before, after in pairwise(lost))
