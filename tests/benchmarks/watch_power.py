"""How soon the watch takes back a model that doubles the NG rate, and how often a good one.

    python tests/benchmarks/watch_power.py

Draws an hour of verdicts many times, looked at every 20 s as the daemon does, with the rate as it
was and doubled; prints how many watches rolled back, and after how many minutes half of them did.
"""

from itertools import product
from statistics import median

import numpy as np

from daemon.training.live_check import Counts, outside_band

LOOK_S, HOUR_S, WATCHES = 20, 3600, 100
PAST_H, MOST_BEFORE = 4, 50_000


def minutes_until_outside(
    rng: np.random.Generator, rate: float, factor: float, fps: int, n_before: int
) -> float | None:
    """None where the whole hour stays in its band."""
    before = Counts(n_before, int(rng.binomial(n_before, rate)), 0)
    seen = ng = 0
    for look in range(1, HOUR_S // LOOK_S + 1):
        seen += fps * LOOK_S
        ng += int(rng.binomial(fps * LOOK_S, rate * factor))
        if outside_band({"c": before}, {"c": Counts(seen, ng, 0)}, {"c": 0.05}):
            return look * LOOK_S / 60
    return None


def main() -> None:
    rng = np.random.default_rng(1)
    print("NG before  frames/s  frames before   NG rate  rolled back  half within")
    for rate, fps in product((0.01, 0.05), (1, 10)):
        for n_before in (min(MOST_BEFORE, fps * PAST_H * HOUR_S), 300):
            for factor in (1.0, 2.0):
                found = [
                    minutes
                    for _ in range(WATCHES)
                    if (minutes := minutes_until_outside(rng, rate, factor, fps, n_before))
                ]
                half = f"{median(found):.0f} min" if found else "-"
                print(
                    f"{rate:>9.0%}  {fps:>8}  {n_before:>13}  x{factor:>7}  "
                    f"{len(found):>5} of {WATCHES}  {half:>11}"
                )


if __name__ == "__main__":
    main()
