"""The split: groups stay together, sides stay for ever, nothing is empty in silence."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.training.split import HELD_OUT_SHARE, Group, Member, assign, group_key, shortages

NOW = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)

quick = settings(max_examples=40)
groups = st.lists(
    st.builds(
        Group,
        category=st.sampled_from(["fabric", "tile"]),
        key=st.integers(0, 60).map(lambda number: f"part:{number}"),
        has_ng=st.booleans(),
    ),
    max_size=60,
    unique_by=lambda group: (group.category, group.key),
)


@quick
@given(nights=st.lists(groups, max_size=4))
def test_a_side_once_given_stays_and_held_out_only_grows(nights: list[list[Group]]) -> None:
    frozen: dict[tuple[str, str], bool] = {}
    for night in nights:
        before = dict(frozen)
        sides = assign(night, frozen)
        frozen |= sides

        assert sides.keys() == {(group.category, group.key) for group in night}
        assert before.items() <= frozen.items()


@quick
@given(nights=st.lists(groups, max_size=4))
def test_a_part_is_on_one_side_in_all_categories(nights: list[list[Group]]) -> None:
    frozen: dict[tuple[str, str], bool] = {}
    for night in nights:
        frozen |= assign(night, frozen)

    by_key: dict[str, set[bool]] = {}
    for (_, key), is_held_out in frozen.items():
        by_key.setdefault(key, set()).add(is_held_out)
    assert all(len(sides) == 1 for sides in by_key.values())


@given(numbers=st.sets(st.integers(0, 10_000), min_size=2, max_size=60), has_ng=st.booleans())
def test_a_third_is_held_out_and_no_side_is_empty(numbers: set[int], has_ng: bool) -> None:
    sides = assign([Group("fabric", f"part:{number}", has_ng) for number in numbers], {})

    held_out = sum(sides.values())
    assert abs(held_out - len(numbers) * HELD_OUT_SHARE) < 1
    assert 0 < held_out < len(numbers)


@quick
@given(found=groups, seed=st.randoms())
def test_the_order_of_labels_does_not_matter(found: list[Group], seed: object) -> None:
    shuffled = list(found)
    seed.shuffle(shuffled)

    assert assign(found, {}) == assign(shuffled, {})


def test_a_frame_belongs_to_its_part_then_lot_then_hour() -> None:
    def key(part_id: str | None, lot: str | None, at: datetime = NOW) -> str:
        return group_key(camera="cam1", part_id=part_id, lot=lot, received_utc=at)

    assert key("P1", "L1") == "part:P1"
    assert key(None, "L1") == "lot:L1"
    assert (
        key(None, None)
        == key(None, None, NOW - timedelta(minutes=59))
        == ("hour:cam1:2026-11-22T23Z")
    )
    assert key(None, None, NOW + timedelta(seconds=1)) == "hour:cam1:2026-11-23T00Z"


def test_everything_of_one_lot_is_said() -> None:
    members = [Member("fabric", "lot:A17", False, number % 2 == 0) for number in range(32)]

    (sentence,) = shortages(members)

    assert sentence == (
        "category 'fabric': all 32 labelled frames belong together (lot:A17), so none can be held "
        "out to measure on: label frames of other parts, lots or hours"
    )


def test_a_kind_of_frames_that_is_missing_on_a_side_is_said() -> None:
    members = [
        *(Member("fabric", f"part:{n}", n < 3, is_ng=False) for n in range(9)),
        Member("fabric", "part:20", False, is_ng=True),
        *(Member("tile", f"part:{n}", n < 3, is_ng=False) for n in range(9)),
    ]

    assert shortages(members) == (
        "category 'fabric': none of the 1 NG frames is left to measure on, for they are of 1 "
        "parts, lots or hours: label NG frames of others",
        "category 'tile': no frame is labelled NG",
    )
