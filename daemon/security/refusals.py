"""Who was turned away: counted always, and told once a minute for each peer and reason."""

import threading
import time
from collections import Counter
from collections.abc import Callable

INTERVAL_S = 60.0
MAX_KEYS = 64
OTHERS = "others"


class Refusals:
    """Counts from any thread; `tell` is called by one thread, which writes into the diary.

    At most MAX_KEYS pairs of peer and reason are remembered; further peers are told as OTHERS, so
    that one who changes his address gains no memory.
    """

    def __init__(
        self, note: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`note` takes one sentence for the diary."""
        self._note = note
        self._clock = clock
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()
        self._untold: Counter[tuple[str, str]] = Counter()
        self._hints: dict[tuple[str, str], str] = {}
        self._told_at: dict[tuple[str, str], float] = {}

    def count(self, peer: str, reason: str, hint: str = "") -> None:
        """One connection or message was refused.

        Args:
            peer: Address, or the socket where it is not known.
            reason: One of a few sentences; never a peer's own words.
            hint: What was seen last, for the person who reads it; does not tell peers apart.
        """
        with self._lock:
            self._totals[reason] += 1
            pair = (peer, reason)
            known = self._untold.keys() | self._told_at.keys()
            if pair not in known and len(known) >= MAX_KEYS:
                pair = (OTHERS, reason)
            self._untold[pair] += 1
            self._hints[pair] = hint

    def totals(self) -> dict[str, int]:
        """By reason, since the start."""
        with self._lock:
            return dict(self._totals)

    @property
    def total(self) -> int:
        """All refusals since the start."""
        with self._lock:
            return self._totals.total()

    def tell(self, *, everything: bool = False) -> None:
        """Note what is new, once an interval; `everything` at the end of the daemon."""
        now = self._clock()
        with self._lock:
            for pair, at in list(self._told_at.items()):
                if now - at >= INTERVAL_S:
                    del self._told_at[pair]
            due = [p for p in self._untold if everything or p not in self._told_at]
            news = [(pair, self._untold.pop(pair), self._hints.pop(pair)) for pair in due]
            self._told_at.update((pair, now) for pair in due)
        for (peer, reason), count, hint in news:
            times = f" ({count} times)" if count > 1 else ""
            self._note(f"{peer}: {reason}{hint and f'; {hint}'}{times}")
