import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.training.gate import Evidence, Judgement, Measured, auroc, judge

MARGIN = 0.02
scores = st.floats(0, 1)


def held_out(
    active: list[float], candidate: list[float], n_sound: int = 6, name: str = "fabric"
) -> Measured:
    """The first `n_sound` images are sound."""
    defective = tuple(i >= n_sound for i in range(len(active)))
    none = (False,) * n_sound
    return Measured(
        name, "held_out", defective, tuple(active), tuple(candidate), (), (), none, none
    )


def unseen(active: list[float], candidate: list[float], name: str = "screws") -> Measured:
    measured = held_out(active, candidate, len(active) // 2, name)
    return replace(measured, kind="unseen", active_rejects=(), candidate_rejects=())


MIXED = [0.4, 0.6, 0.3, 0.7, 0.5, 0.45, 0.35, 0.65, 0.5, 0.4, 0.55, 0.6]
GOOD = [0.1, 0.2, 0.15, 0.12, 0.2, 0.18, 0.9, 0.8, 0.85, 0.7, 0.95, 0.75]
STEADY = unseen(GOOD, GOOD)
BETTER = held_out(MIXED, GOOD)


def passed(*sets: Measured, **changes: object) -> Judgement:
    evidence = replace(Evidence(sets=sets, uncalibrated={}), **changes)
    return judge(evidence, margin=MARGIN)


def test_a_candidate_that_is_better_and_nowhere_worse_passes() -> None:
    judgement = passed(BETTER, STEADY)

    assert judgement.promote
    assert judgement.reasons == ()


def test_one_that_is_just_as_good_is_not_worse_and_not_better() -> None:
    judgement = passed(held_out(MIXED, MIXED), STEADY)

    assert [found.subject for found in judgement.findings if not found.holds] == ["gain"]
    assert "no labelled category is better beyond chance" in judgement.reasons[0]


def test_zero_shot_ability_is_not_sold_for_one_product() -> None:
    judgement = passed(BETTER, unseen(GOOD, MIXED))

    (reason,) = judgement.reasons
    assert reason.startswith("screws: I-AUROC -")
    assert "beyond the margin of -0.02" in reason


def test_another_category_that_gets_worse_refuses() -> None:
    assert not passed(BETTER, held_out(GOOD, MIXED, name="wood"), STEADY).promote


def test_outlines_that_get_worse_refuse() -> None:
    worse = replace(BETTER, active_outline=(0.9, 0.95, 0.92), candidate_outline=(0.6, 0.5, 0.7))

    (reason,) = passed(worse, STEADY).reasons

    assert "P-AUROC" in reason


@pytest.mark.parametrize(("rejected", "promote"), [(1, True), (2, False)])
def test_one_false_reject_more_may_be_chance_two_are_not(rejected: int, promote: bool) -> None:
    rejects = tuple(i < rejected for i in range(6))

    judgement = passed(replace(BETTER, candidate_rejects=rejects), STEADY)

    assert judgement.promote is promote


def test_a_category_without_thresholds_refuses_with_its_reason() -> None:
    judgement = passed(BETTER, STEADY, uncalibrated={"wood": "3 images, 10 are needed"})

    (reason,) = judgement.reasons
    assert reason == "wood: no thresholds for the candidate: 3 images, 10 are needed"


def test_golden_images_that_do_not_reproduce_refuse() -> None:
    (reason,) = passed(BETTER, STEADY, golden="score 0.4, was 0.5").reasons

    assert reason == "golden images do not reproduce: score 0.4, was 0.5"


def test_without_unseen_products_nothing_is_promoted() -> None:
    assert not passed(BETTER).promote


def test_without_a_held_out_set_nothing_is_promoted() -> None:
    (reason,) = passed(STEADY).reasons

    assert "label more" in reason


def test_a_set_without_images_refuses() -> None:
    assert not passed(BETTER, STEADY, held_out([], [], 0, name="empty")).promote


@settings(max_examples=30)
@given(
    st.sampled_from(["active", "candidate", "active_outline", "candidate_outline"]),
    st.integers(0, 11),
    st.sampled_from([math.nan, math.inf, -0.1, 1.1]),
    st.sampled_from(["fabric", "screws"]),
)
def test_nan_anywhere_refuses(field: str, place: int, value: float, where: str) -> None:
    outlines = {"active_outline": (0.5,) * 12, "candidate_outline": (0.9,) * 12}
    sets = {"fabric": replace(BETTER, **outlines), "screws": replace(STEADY, **outlines)}
    assert passed(*sets.values()).promote
    values = list(getattr(sets[where], field))
    values[place] = value
    sets[where] = replace(sets[where], **{field: tuple(values)})

    judgement = passed(*sets.values())

    assert not judgement.promote
    assert any("not in [0, 1]" in reason for reason in judgement.reasons)


@settings(max_examples=30)
@given(st.lists(scores, min_size=12, max_size=12), st.integers(1, 11))
def test_nobody_is_better_than_himself(values: list[float], n_sound: int) -> None:
    judgement = passed(held_out(values, values, n_sound), unseen(values, values))

    assert {found.subject for found in judgement.findings if not found.holds} == {"gain"}


@settings(max_examples=15)
@given(st.permutations([BETTER, STEADY, held_out(GOOD, GOOD, name="wood"), unseen(MIXED, MIXED)]))
def test_the_order_of_sets_makes_no_difference(sets: list[Measured]) -> None:
    sets = [replace(one, name=f"{one.kind} {one.active[0]}") for one in sets]

    assert passed(*sets) == passed(*sorted(sets, key=lambda one: one.name))


@given(st.lists(scores, min_size=1), st.lists(scores, min_size=1))
def test_auroc_counts_the_pairs_that_are_in_order(
    sound: list[float], defective: list[float]
) -> None:
    wins = [(d > s) + 0.5 * (d == s) for s in sound for d in defective]

    assert auroc(sound, defective) == pytest.approx(sum(wins) / len(wins))
