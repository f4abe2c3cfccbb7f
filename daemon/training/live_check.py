"""Whether the verdicts of another model stay in the band that a line's own past sets. Pure.

Two models judged the same line: the candidate beside the active one (on the same frames), or the
new one after the one before (on other frames). A rate leaves its band when it is credibly more
than MORE times the rate before. Coming down is no fault, for fewer false rejects are what a night
is for, unless credibly less is flagged than both FEWER of before and FEWER of what the
thresholds were made to flag of sound parts: such a model has gone blind.

"Credibly" is an exact test at DOUBT, and at least LEAST frames beyond what the rate before lets
expect, so that a handful of frames proves nothing. It states what must hold and refuses the rest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from daemon.core import Verdict

MORE = 1.25
FEWER = 1 / 3
DOUBT = 1e-3
LEAST = 8
ENOUGH = 50
"""Frames of a category before, from which on its rates say anything."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Frames of one category that got a verdict by thresholds, and how many of them which."""

    frames: int
    ng: int
    review: int

    @classmethod
    def of(cls, verdicts: Mapping[Verdict, int]) -> Self:
        """Of frames counted by verdict; those without one by thresholds are left out."""
        ng, review = verdicts.get(Verdict.NG, 0), verdicts.get(Verdict.REVIEW, 0)
        return cls(ng + review + verdicts.get(Verdict.OK, 0), ng, review)

    @property
    def flagged(self) -> int:
        """Frames that are not OK."""
        return self.ng + self.review


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What both models said of one category's frames.

    Attributes:
        failed: Frames of which the candidate said nothing that is a score.
    """

    active: Counts
    candidate: Counts
    failed: int


def reasons_to_reject(
    shadowed: Mapping[str, Shadowed], review_rates: Mapping[str, float]
) -> list[str]:
    """What speaks against a candidate that judged live frames beside the active model.

    Args:
        review_rates: Share of sound parts that each category's thresholds were made to flag.

    Returns:
        Sentences; empty is fine.
    """
    reasons = [
        f"{category}: the candidate's score was no number in [0, 1] on {found.failed} of "
        f"{found.candidate.frames + found.failed} frames"
        for category, found in shadowed.items()
        if found.failed != 0
    ]
    before = {name: found.active for name, found in shadowed.items()}
    after = {name: found.candidate for name, found in shadowed.items()}
    return reasons + outside_band(before, after, review_rates)


def outside_band(
    before: Mapping[str, Counts], after: Mapping[str, Counts], review_rates: Mapping[str, float]
) -> list[str]:
    """Which rates left their band, category by category; those unknown before are passed over.

    Returns:
        Sentences; empty is fine.
    """
    reasons = []
    for category, now in sorted(after.items()):
        past = before.get(category)
        if past is None or past.frames < ENOUGH or now.frames == 0:
            continue
        for what, k_before, k_now in (
            ("NG", past.ng, now.ng),
            ("REVIEW", past.review, now.review),
        ):
            if _is_more(k_before, past.frames, k_now, now.frames):
                text = f"its band ends at {MORE:.3g} times that"
                reasons.append(_sentence(category, what, k_before, past, k_now, now, text))
        promised = review_rates.get(category, 0.0)
        if _is_blind(past, now, promised):
            text = f"its band begins at a third of that and of the {promised:.2%} that sound parts"
            text += " may score"
            reasons.append(
                _sentence(category, "NG or REVIEW", past.flagged, past, now.flagged, now, text)
            )
    return reasons


def compared(before: Mapping[str, Counts], after: Mapping[str, Counts]) -> str:
    """The rates side by side, for people."""
    parts = []
    for category, now in sorted(after.items()):
        past = before.get(category)
        if now.frames == 0:
            continue
        then = (
            "nothing to compare with"
            if past is None or past.frames < ENOUGH
            else f"before {_share(past.ng, past.frames)} and {_share(past.review, past.frames)} "
            f"of {past.frames}"
        )
        parts.append(
            f"{category}: NG {_share(now.ng, now.frames)}, REVIEW "
            f"{_share(now.review, now.frames)} of {now.frames} frames ({then})"
        )
    return "; ".join(parts) or "no frame was judged"


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) of a binomial X; exact, 1 for k <= 0."""
    if k <= 0 or p >= 1.0:
        return 1.0
    if p <= 0.0:
        return 0.0
    terms = [_log_binomial(i, n, p) for i in range(k, n + 1)]
    return _sum_of_logs(terms)


def at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial X; exact."""
    return at_least(n - k, n, 1.0 - p)


def _is_more(k_before: int, n_before: int, k_now: int, n_now: int) -> bool:
    """Whether the rate is credibly more than MORE times the one before.

    Of all k_before + k_now frames, under a rate of exactly MORE times the one before, each lies
    now rather than before with a fixed probability: Przyborowski and Wilenski's conditional test.
    """
    if not k_now - n_now * k_before / n_before >= LEAST:
        return False
    share = MORE * n_now / (MORE * n_now + n_before)
    return at_least(k_now, k_before + k_now, share) < DOUBT


def _is_blind(past: Counts, now: Counts, promised: float) -> bool:
    expected = now.frames * past.flagged / past.frames
    if not expected - now.flagged >= LEAST:
        return False
    share = FEWER * now.frames / (FEWER * now.frames + past.frames)
    return (
        at_most(now.flagged, past.flagged + now.flagged, share) < DOUBT
        and at_most(now.flagged, now.frames, FEWER * promised) < DOUBT
    )


def _sentence(
    category: str, what: str, k_before: int, past: Counts, k_now: int, now: Counts, limit: str
) -> str:
    return (
        f"{category}: {what} {_share(k_now, now.frames)} ({k_now} of {now.frames} frames), before "
        f"{_share(k_before, past.frames)} ({k_before} of {past.frames}); {limit}"
    )


def _share(k: int, n: int) -> str:
    return f"{k / n:.2%}" if n else "-"


def _log_binomial(k: int, n: int, p: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(p) + (n - k) * math.log1p(-p)


def _sum_of_logs(terms: Sequence[float]) -> float:
    largest = max(terms)
    return min(1.0, math.exp(largest) * math.fsum(math.exp(term - largest) for term in terms))
