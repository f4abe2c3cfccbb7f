"""What a shift report says, as frozen values. Refuses to know the database and the output format.

Units: a unit is one frame of one part, so a part seen by two cameras is two units. Rates of a
report without part numbers are therefore yields of frames, not first-pass yields of parts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from daemon.core import LabelVerdict, LossReason, Verdict

SCHEMA = 1
"""Raised when a name or meaning in the JSON or CSV output changes."""

NO_CAMERA = "(unknown)"
"""Stands for frames whose message named no camera, or one that is not configured."""


@dataclass(frozen=True, slots=True)
class ReportWindow:
    """The time reported on: [start_utc, end_utc), shown in the line's zone.

    Attributes:
        zone: IANA name.
        shift_name, start_date: None for a window that is no planned shift.
    """

    title: str
    start_utc: datetime
    end_utc: datetime
    zone: str
    shift_name: str | None = None
    start_date: date | None = None


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """Frames by verdict. `judged` is the base of every rate: LEARNING and ERROR judge nothing."""

    ok: int = 0
    ng: int = 0
    review: int = 0
    learning: int = 0
    error: int = 0

    @property
    def inspected(self) -> int:
        """Frames that the detector scored."""
        return self.ok + self.ng + self.review + self.learning

    @property
    def judged(self) -> int:
        """Frames with a verdict about the part."""
        return self.ok + self.ng + self.review

    @property
    def rows(self) -> int:
        """Identified frames, inspected or not."""
        return self.inspected + self.error

    @property
    def by_verdict(self) -> dict[Verdict, int]:
        """The same by name."""
        return {
            Verdict.OK: self.ok,
            Verdict.NG: self.ng,
            Verdict.REVIEW: self.review,
            Verdict.LEARNING: self.learning,
            Verdict.ERROR: self.error,
        }

    @property
    def yield_rate(self) -> float | None:
        """OK of judged. REVIEW is not OK until someone says so; None without judged frames."""
        return self.ok / self.judged if self.judged else None

    @property
    def ppm_defective(self) -> float | None:
        """NG of judged, in parts per million."""
        return 1e6 * self.ng / self.judged if self.judged else None

    def __add__(self, other: "VerdictCounts") -> "VerdictCounts":
        """Counts of both."""
        return VerdictCounts(
            self.ok + other.ok,
            self.ng + other.ng,
            self.review + other.review,
            self.learning + other.learning,
            self.error + other.error,
        )


def counts_of(pairs: Iterable[tuple[Verdict, int]]) -> VerdictCounts:
    """Verdict counts from (verdict, frames) pairs."""
    frames = dict.fromkeys(Verdict, 0)
    for verdict, n in pairs:
        frames[verdict] += n
    return VerdictCounts(
        ok=frames[Verdict.OK],
        ng=frames[Verdict.NG],
        review=frames[Verdict.REVIEW],
        learning=frames[Verdict.LEARNING],
        error=frames[Verdict.ERROR],
    )


@dataclass(frozen=True, slots=True)
class PartCounts:
    """Parts by `part_id`. A part is good at first pass when all its frames are OK.

    A frame in state LEARNING says nothing about its part; one with ERROR spoils it.

    Attributes:
        judged_frames_without_id: Judged frames that belong to no known part.
    """

    parts: int
    first_pass_ok: int
    judged_frames_without_id: int

    @property
    def first_pass_yield(self) -> float | None:
        """None without parts."""
        return self.first_pass_ok / self.parts if self.parts else None


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """Counts of one camera and category."""

    camera: str
    category: str
    counts: VerdictCounts


@dataclass(frozen=True, slots=True)
class HourCounts:
    """One local hour, or the part of it inside the window; or a shorter slice for a plot.

    Attributes:
        start_utc: When it begins, not before the window.
        label: Local wall clock with zone abbreviation, so both 02:00 of a 25-hour day differ.
        groups: Only the camera and category pairs that had rows.
        lost: Received frames without a row. `gap`: frames never received.
    """

    start_utc: datetime
    label: str
    groups: tuple[GroupCounts, ...]
    lost: int
    gap: int

    @property
    def counts(self) -> VerdictCounts:
        """All cameras and categories."""
        return sum((group.counts for group in self.groups), VerdictCounts())


@dataclass(frozen=True, slots=True)
class LossCount:
    """Frames not inspected for one reason."""

    reason: LossReason
    frames: int


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Where every frame of one camera went.

    Two independent counts must agree: the rows and losses of the window (received = inspected +
    lost), and the camera's own running numbers (`sent` = numbers accounted for).

    Attributes:
        lost: Received but not inspected, by reason; ERROR rows under their error_reason.
        gaps: Sent, never received.
        unnumbered: Frames in `lost` whose running number is unknown or was seen before.
        sent: Numbers the camera's publisher is known to have used in the window.
        accounted: Of these, how many have a row, a loss or a gap, whenever it was stored.
        joined_at: Numbers below the first one ever seen of a publisher that was joined while it
            counted (imagezmq senders); whether they were sent is not known, so not in `sent`.
    """

    camera: str
    counts: VerdictCounts
    received: int
    lost: tuple[LossCount, ...]
    gaps: int
    unnumbered: int
    sent: int
    accounted: int
    joined_at: int

    @property
    def lost_frames(self) -> int:
        """Received and not inspected."""
        return sum(loss.frames for loss in self.lost)

    @property
    def mismatches(self) -> tuple[str, ...]:
        """What does not add up, as sentences; empty when every frame is accounted for."""
        found = []
        if self.received != self.counts.inspected + self.lost_frames:
            found.append(
                f"{self.camera}: received {self.received} is not inspected "
                f"{self.counts.inspected} + lost {self.lost_frames}"
            )
        if self.accounted < self.sent:
            found.append(
                f"{self.camera}: of {self.sent} frames known sent, "
                f"{self.sent - self.accounted} have no row, loss or gap"
            )
        elif self.accounted > self.sent:
            found.append(
                f"{self.camera}: {self.accounted - self.sent} of {self.sent} frames known sent "
                "are counted twice"
            )
        return tuple(found)

    @property
    def edge_frames(self) -> int:
        """Numbered frames received here but stored in the neighbouring window (+), or back (-)."""
        return self.accounted - (self.received - self.unnumbered + self.gaps)


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """Scores of one category under one model version and one pair of thresholds.

    Attributes:
        review_threshold, ng_threshold: None while LEARNING.
        from_utc, to_utc: First and last frame scored so.
        histogram: Counts in equal bins over [0, 1].
    """

    category: str
    model_version: str
    review_threshold: float | None
    ng_threshold: float | None
    from_utc: datetime
    to_utc: datetime
    frames: int
    p50: float
    p95: float
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """One frame of the score-over-time plot, which shows a bounded sample of all frames."""

    received_utc: datetime
    category: str
    score: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Receipt to verdict, milliseconds.

    Attributes:
        camera: None for all cameras.
        edges_ms, histogram: Logarithmic bins; len(edges_ms) = len(histogram) + 1.
    """

    camera: str | None
    frames: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    edges_ms: tuple[float, ...]
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A stretch of frames decided by one model version; the next use starts at its change time."""

    name: str
    method: str
    backbone: str
    from_utc: datetime
    to_utc: datetime
    frames: int


@dataclass(frozen=True, slots=True)
class CalibrationMade:
    """A calibration stored inside the window."""

    created_utc: datetime
    category: str
    model_version: str
    review_threshold: float
    ng_threshold: float
    n_frames: int
    is_supported: bool
    source: str


@dataclass(frozen=True, slots=True)
class DaemonRun:
    """One run of the daemon that touches the window.

    Attributes:
        stopped_utc: None while running, and after a crash.
        has_crashed: A later run started although this one never stopped.
        is_start_inside: It was started within the window.
    """

    started_utc: datetime
    stopped_utc: datetime | None
    has_crashed: bool
    is_start_inside: bool


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """Who or what changed a model of the line; `kind` as in `storage.models.ModelChangeKind`.

    Attributes:
        previous: What a promoted model took the place of; after a roll-back or a failure, what is
            active again.
    """

    at_utc: datetime
    kind: str
    version: str
    previous: str | None
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class Night:
    """One run of the nightly job, or a night on which it had nothing to do.

    Attributes:
        state, detail: How it ended, and why.
        latency_before_ms, latency_during_ms: Frame to verdict; None where too few frames came.
    """

    due_utc: datetime
    started_utc: datetime
    ended_utc: datetime | None
    state: str
    step: str
    detail: str
    candidate: str | None
    attempts: int
    latency_before_ms: float | None
    latency_during_ms: float | None


@dataclass(frozen=True, slots=True)
class LabelledCount:
    """Frames with this verdict of the machine and this label of a person."""

    verdict: Verdict
    label: LabelVerdict
    frames: int


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """How often the machine erred in one way, as far as labels tell.

    Attributes:
        how: `random`: estimated from frames drawn at random. `all`: every frame was labelled, so
            it is counted. `chosen`: the labelled frames were chosen, so there is no rate.
        drawn: Frames drawn at random, labelled or not.
        labelled, wrong: Frames the rate is from, and those on which the person disagrees.
        low, high: 95 % interval (Wilson); None where nothing is estimated.
    """

    how: Literal["random", "all", "chosen"]
    drawn: int
    labelled: int
    wrong: int
    rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """What people said of the window's frames, beside the machine.

    Attributes:
        review_ok, review_ng, review_open: REVIEW frames that labels closed, and the others.
        escapes: Share of the frames called OK that are NG.
        false_rejects: Share of the good frames that were called NG.
    """

    counts: tuple[LabelledCount, ...]
    review_ok: int
    review_ng: int
    review_open: int
    escapes: ErrorRate
    false_rejects: ErrorRate


@dataclass(frozen=True, slots=True)
class ParetoRow:
    """NG frames whose strongest region lies in one place and size class.

    Attributes:
        place: Ninth of the frame ("top left"), or "no region over the map threshold".
        size: Share of the frame's area, "" without a region.
    """

    camera: str
    category: str
    place: str
    size: str
    frames: int


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One of the worst frames. Pictures are None where none were stored.

    Attributes:
        part_id, lot: As sent; never trusted.
    """

    inspection_id: int
    verdict: Verdict
    camera: str
    category: str
    received_utc: datetime
    pred_score: float
    review_threshold: float | None
    ng_threshold: float | None
    part_id: str | None
    lot: str | None
    photo_jpeg: bytes | None = field(repr=False)
    overlay_jpeg: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShiftReport:
    """Everything a report says.

    Attributes:
        first_frame_utc, last_frame_utc: The actual times; None without rows.
        groups: Every configured camera has at least one entry in `ledger`; groups only list
            pairs with rows.
        parts: None where no frame has a part_id.
        slices: For the plot: the hours, or of a short window finer steps.
        agreement: None where no frame of the window is labelled.
    """

    line: str
    window: ReportWindow
    created_utc: datetime
    first_frame_utc: datetime | None
    last_frame_utc: datetime | None
    groups: tuple[GroupCounts, ...]
    parts: PartCounts | None
    hours: tuple[HourCounts, ...]
    slices: tuple[HourCounts, ...]
    ledger: tuple[LedgerRow, ...]
    scores: tuple[ScoreSummary, ...]
    score_points: tuple[ScorePoint, ...]
    latency: tuple[LatencySummary, ...]
    model_uses: tuple[ModelUse, ...]
    calibrations: tuple[CalibrationMade, ...]
    daemon_runs: tuple[DaemonRun, ...]
    pareto: tuple[ParetoRow, ...]
    gallery: tuple[GalleryItem, ...]
    model_changes: tuple[ModelChanged, ...] = ()
    nights: tuple[Night, ...] = ()
    agreement: Agreement | None = None

    @property
    def totals(self) -> VerdictCounts:
        """All cameras and categories."""
        return sum((group.counts for group in self.groups), VerdictCounts())

    @property
    def received(self) -> int:
        """Frames taken off a socket."""
        return sum(row.received for row in self.ledger)

    @property
    def gaps(self) -> int:
        """Frames sent and never received."""
        return sum(row.gaps for row in self.ledger)

    @property
    def not_inspected(self) -> tuple[LossCount, ...]:
        """Every reason that occurred, gaps included, most frequent first."""
        frames = dict.fromkeys(LossReason, 0)
        frames[LossReason.GAP] = self.gaps
        for row in self.ledger:
            for loss in row.lost:
                frames[loss.reason] += loss.frames
        found = [LossCount(reason, n) for reason, n in frames.items() if n]
        return tuple(sorted(found, key=lambda loss: (-loss.frames, loss.reason)))

    @property
    def mismatches(self) -> tuple[str, ...]:
        """What does not add up in the ledger."""
        return tuple(sentence for row in self.ledger for sentence in row.mismatches)

    @property
    def is_ledger_balanced(self) -> bool:
        """Whether every frame known sent is accounted for."""
        return not self.mismatches

    @property
    def is_empty(self) -> bool:
        """Neither rows nor losses."""
        return self.received == 0 and self.gaps == 0

    @property
    def is_running(self) -> bool:
        """Made before the window's end: the figures are not final."""
        return self.created_utc < self.window.end_utc
