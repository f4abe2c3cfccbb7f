"""How many of n values lie beyond a threshold: exact distributions. Pure arithmetic."""

import math


def allowed_exceedances(n: int, rate: float, confidence: float) -> int | None:
    """How many of n OK scores may lie above a threshold that keeps `rate` with `confidence`.

    With m of n above it, the share p of all OK parts above it is at most `rate` with confidence
    C if P(Binomial(n, rate) <= m) <= 1 - C: the one-sided limit of Clopper and Pearson (1934,
    Biometrika 26, 404-413), and the distribution-free tolerance limit of Wilks (1941, Ann. Math.
    Statist. 12, 91-96). Ties make it only safer.

    Returns:
        The largest such m; None where even m = 0 would need more frames.
    """
    # pmf(m + 1) = pmf(m) * (n - m) / (m + 1) * rate / (1 - rate); begun in logs, since
    # (1 - rate)^n may be smaller than a float can be
    log_pmf, total, allowed = n * math.log1p(-rate), 0.0, None
    log_odds = math.log(rate) - math.log1p(-rate)
    for m in range(n):
        total += math.exp(log_pmf)
        if total > 1.0 - confidence:
            break
        allowed = m
        log_pmf += math.log(n - m) - math.log(m + 1) + log_odds
    return allowed


def frames_for_confidence(rate: float, confidence: float) -> int:
    """Smallest n of which none may exceed the threshold: (1 - rate)^n <= 1 - confidence."""
    n = math.ceil(math.log1p(-confidence) / math.log1p(-rate))
    return n if allowed_exceedances(n, rate, confidence) is not None else n + 1


def probability_of_more(count: int, window: int, rank: int, n: int) -> float:
    """P(at least `count` of `window` new values exceed the rank-th smallest of n earlier ones).

    Exact for any continuous distribution, if all values are exchangeable: the number of
    exceedances is then beta-binomial with parameters n - rank + 1 and rank (Gumbel and von
    Schelling 1950, Ann. Math. Statist. 21, 247-262).

    Args:
        rank: From 1 to n.
    """
    a, b = n - rank + 1, rank
    scale = _log_beta(a, b)
    terms = (
        math.exp(_log_choose(window, k) + _log_beta(a + k, b + window - k) - scale)
        for k in range(count, window + 1)
    )
    return min(1.0, math.fsum(terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
