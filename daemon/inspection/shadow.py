"""A candidate scores live frames beside the active model, in the moments when no frame waits.

Nobody hears its verdicts; they are stored for the decision whether it becomes active. It takes a
sample, not all: while frames wait it does nothing, and what it has not scored by then is forgotten
as newer frames come. A frame that arrives meanwhile waits for one pass of the network at most. On a
line that is never idle it takes one frame of ONE_OF all the same, so that every trial has an end.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration, Frame, Inspection, ShadowScore, Verdict
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.decision import decide
from daemon.inspection.loaded_model import LoadedModel
from daemon.inspection.loop import Inspect, Result
from daemon.inspection.pictures import Undrawn
from daemon.inspection.roi import RoiMasks
from zsad.tiling import TilingError

logger = logging.getLogger(__name__)

MAX_WAITING = 4
"""Frames kept in memory for the candidate, the newest."""
ONE_OF = 50
"""Of so many frames in a row without an idle moment one is scored: 2 % of what inspection costs."""
JUDGED = (Verdict.OK, Verdict.REVIEW, Verdict.NG)


@dataclass(frozen=True, slots=True)
class ShadowCounters:
    """Since the candidate began.

    Attributes:
        frames: Scored, those without a score included.
        given_up: Frames of many tiles that were left when another frame came.
        longest_pass_s: What a frame that arrived meanwhile had to wait at most.
    """

    frames: int = 0
    given_up: int = 0
    longest_pass_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Rival:
    """A candidate and its thresholds."""

    model: LoadedModel
    book: CalibrationBook


@dataclass(frozen=True, slots=True)
class _Seen:
    """A frame that the active model judged."""

    frame: Frame
    inspection: Inspection
    policy: CategoryConfig


class _FrameWaitsError(Exception):
    """A frame came in while the candidate looked at the tiles of another."""


class Shadow:
    """The inspection thread shows frames and gives time; the main thread says which candidate.

    Attributes:
        counters: A consistent snapshot; replaced, never changed.
    """

    def __init__(
        self,
        *,
        sink: Callable[[ShadowScore], None],
        has_frames: Callable[[], bool],
        beat: Callable[[], None],
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        """Args are kept.

        Args:
            sink: Takes each score.
            has_frames: Whether a frame waits to be inspected.
            beat: Called after each pass (a heartbeat).
            clock: Monotonic seconds.
            now: Aware UTC.
        """
        self.counters = ShadowCounters()
        self._sink = sink
        self._has_frames = has_frames
        self._beat = beat
        self._clock = clock
        self._now = now
        self._rival: Rival | None = None
        self._waiting: deque[_Seen] = deque(maxlen=MAX_WAITING)
        self._masks = RoiMasks()
        self._passed_over = 0
        self._passes_left = 0
        self._pass_began_at = 0.0

    @property
    def version(self) -> str | None:
        """Which candidate scores now."""
        rival = self._rival
        return None if rival is None else rival.model.version

    def begin(self, rival: Rival) -> None:
        """Let a candidate score from now on. For the main thread."""
        self.counters = ShadowCounters()
        self._rival = rival

    def end(self) -> None:
        """Let nobody score. For the main thread."""
        self._rival = None

    def after_pass(self) -> None:
        """What a candidate's `LoadedModel` calls after each pass of the network."""
        self._beat()
        now = self._clock()
        self._note_pass(now)
        self._passes_left -= 1
        if self._passes_left > 0 and self._has_frames() and not self._is_overdue:
            raise _FrameWaitsError

    def around_inspect(self, inspect: Inspect) -> Inspect:
        """`inspect`, whose frames and verdicts are remembered for the candidate."""

        def watched(batch: Sequence[Frame]) -> Sequence[Result]:
            results = inspect(batch)
            if (rival := self._rival) is not None:
                self._remember(batch, results, rival.book.categories)
            return results

        return watched

    def step(self, *, is_idle: bool) -> None:
        """Score one frame, if none waits or it is high time. For the inspection thread."""
        rival = self._rival
        if rival is None:
            self._waiting.clear()
            return
        if not self._waiting or not (is_idle or self._is_overdue):
            return
        seen = self._waiting.pop()
        try:
            score = self._score(rival, seen)
        except _FrameWaitsError:
            counters = self.counters
            self.counters = ShadowCounters(
                counters.frames, counters.given_up + 1, counters.longest_pass_s
            )
            return
        self._passed_over = 0
        if score is not None:
            self._sink(score)
            counters = self.counters
            self.counters = ShadowCounters(
                counters.frames + 1, counters.given_up, counters.longest_pass_s
            )

    @property
    def _is_overdue(self) -> bool:
        return self._passed_over >= ONE_OF

    def _remember(
        self,
        batch: Sequence[Frame],
        results: Sequence[Result],
        categories: Mapping[str, CategoryConfig],
    ) -> None:
        plain = [item.inspection if isinstance(item, Undrawn) else item for item in results]
        verdicts = {
            item.info.frame_id: item
            for item in plain
            if isinstance(item, Inspection) and item.verdict in JUDGED
        }
        for frame in batch:
            inspection = verdicts.get(frame.info.frame_id)
            policy = categories.get(frame.info.category)
            if inspection is not None and policy is not None:
                self._waiting.append(_Seen(frame, inspection, policy))
                self._passed_over += 1

    def _score(self, rival: Rival, seen: _Seen) -> ShadowScore | None:
        """None where the candidate has no thresholds for the frame."""
        category = seen.frame.info.category
        calibration = rival.book.get(category, seen.policy)
        if calibration is None:
            return None
        verdict: Verdict = Verdict.ERROR
        score: float | None = None
        try:
            verdict, score = self._judge(rival.model, seen, calibration)
        # RuntimeError is torch's class for out of memory and device faults; ValueError: NaN
        except (RuntimeError, TilingError, ValueError) as error:
            logger.warning(
                "candidate failed", extra={"model": rival.model.version, "error": str(error)}
            )
        assert seen.inspection.pred_score is not None, "it was judged"  # noqa: S101
        return ShadowScore(
            frame_id=seen.frame.info.frame_id,
            category=category,
            version=rival.model.version,
            at_utc=self._now(),
            verdict=seen.inspection.verdict,
            pred_score=seen.inspection.pred_score,
            shadow_verdict=verdict,
            shadow_score=score,
        )

    def _judge(
        self, model: LoadedModel, seen: _Seen, calibration: Calibration
    ) -> tuple[Verdict, float]:
        """Verdict and score, as the inspector would make them.

        Raises:
            RuntimeError, TilingError: the device failed, or the frame needs too many tiles.
            ValueError: what it said is no score.
        """
        policy, image = seen.policy, seen.frame.image
        self._passes_left = model.passes(image, policy)
        self._pass_began_at = self._clock()
        ((score, anomaly_map),) = model.infer([image], [(seen.frame.info.category, policy)])
        if not 0.0 <= anomaly_map.peak <= 1.0:
            raise ValueError(f"map peak {anomaly_map.peak} is not in [0, 1]")
        score, _ = self._masks.apply(policy.roi, score, anomaly_map)
        return decide(score, calibration, between=Verdict(policy.review_as)), score

    def _note_pass(self, now: float) -> None:
        longest_s = max(self.counters.longest_pass_s, now - self._pass_began_at)
        self._pass_began_at = now
        self.counters = ShadowCounters(self.counters.frames, self.counters.given_up, longest_s)
