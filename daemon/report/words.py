"""How a report words numbers, times and reasons, the same in the terminal and on the page."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from unicodedata import category
from zoneinfo import ZoneInfo

from daemon.core import LabelVerdict, LossReason, Verdict
from daemon.report.contents import (
    Agreement,
    DaemonRun,
    ErrorRate,
    LedgerRow,
    Night,
    PartCounts,
    ReportWindow,
    ShiftReport,
)

REASON_WORDS = {
    LossReason.GAP: "never received (gap in the camera's numbers)",
    LossReason.BAD_MESSAGE: "unreadable message",
    LossReason.TOO_LARGE: "over a size limit",
    LossReason.BAD_PAYLOAD: "damaged image",
    LossReason.UNKNOWN_CAMERA: "camera not configured",
    LossReason.UNKNOWN_CATEGORY: "category not configured",
    LossReason.CLOCK: "capture time implausible",
    LossReason.DUPLICATE: "sent twice",
    LossReason.NOT_ALLOWED: "sender without the camera's key",
    LossReason.TOO_FAST: "over the camera's frame rate limit",
    LossReason.QUEUE_FULL: "queue full, dropped by its policy",
    LossReason.INFERENCE_FAILED: "detector failed",
    LossReason.FLAT: "image without contrast",
    LossReason.TOO_DARK: "image too dark",
    LossReason.TOO_BRIGHT: "image too bright",
    LossReason.BLURRED: "image blurred",
    LossReason.FROZEN: "camera frozen (same image again)",
    LossReason.WRONG_SIZE: "image of the wrong size",
}

RATES_NOTE = (
    "Yield = OK / (OK + NG + REVIEW); REVIEW counts as not OK until someone closes it, LEARNING "
    "and ERROR judge nothing. ppm defective = NG / (OK + NG + REVIEW)."
)
PARETO_NOTE = (
    "Defect types are not known yet: NG frames are grouped by where their strongest region lies "
    "in the frame and how much of the frame it covers."
)
LABELS_NOTE = (
    "Rows are the machine's verdicts, columns what people said of the same frames; a corrected "
    "label counts as it is now. REVIEW and UNCERTAIN enter no rate."
)
_OTHER = {"promoted": "instead of", "rolled_back": "back to", "failed": "instead runs"}
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode categories
NO_VALUE = "–"  # noqa: RUF001 - a dash, to be read by people


def clean(text: str) -> str:
    """Text from the wire without control, format and line characters, which a terminal obeys."""
    return "".join("�" if category(char) in _UNSAFE else char for char in text)


def count(number: int) -> str:
    """12 345, with narrow spaces that do not break."""
    return f"{number:,}".replace(",", "\u202f")


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a percentage; never rounded up to 100 or down to 0."""
    if share is None:
        return NO_VALUE
    smallest = 10.0 ** -(digits + 2)
    if 1 - smallest < share < 1:
        share = 1 - smallest
    elif 0 < share < smallest:
        share = smallest
    return f"{100 * share:.{digits}f} %"


def ppm(value: float | None) -> str:
    """Parts per million."""
    return NO_VALUE if value is None else f"{count(round(value))} ppm"


def milliseconds(value_ms: float) -> str:
    """A duration to three significant figures, in ms or s."""
    if value_ms >= 1000:
        return f"{value_ms / 1000:.3g} s" if value_ms < 1e6 else f"{value_ms / 1000:.0f} s"
    return f"{value_ms:.3g} ms"


def score(value: float | None) -> str:
    """A raw score or threshold."""
    return NO_VALUE if value is None else f"{value:.4f}"


def clock(instant: datetime | None, window: ReportWindow, *, seconds: bool = True) -> str:
    """Local time in the line's zone; with its date when the window spans more than one."""
    if instant is None:
        return NO_VALUE
    zone = ZoneInfo(window.zone)
    local = instant.astimezone(zone)
    first, last = window.start_utc.astimezone(zone).date(), window.end_utc.astimezone(zone).date()
    is_one_day = first == last == local.date()
    day = "" if is_one_day else f"{local:%Y-%m-%d} "
    return f"{day}{local:%H:%M:%S}" if seconds else f"{day}{local:%H:%M}"


def planned_times(window: ReportWindow) -> str:
    """2026-01-31 06:00 CET to 14:00 CET (8 h)."""
    zone = ZoneInfo(window.zone)
    start, end = window.start_utc.astimezone(zone), window.end_utc.astimezone(zone)
    hours = (window.end_utc - window.start_utc).total_seconds() / 3600
    end_text = f"{end:%H:%M %Z}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M %Z}"
    length = f"{hours:.3g} h" if hours >= 1 else f"{60 * hours:.3g} min"
    return f"{start:%Y-%m-%d %H:%M %Z} to {end_text} ({length})"


def actual_times(report: ShiftReport) -> str:
    """First to last frame."""
    if report.first_frame_utc is None:
        return "no frames"
    first = clock(report.first_frame_utc, report.window)
    return f"{first} to {clock(report.last_frame_utc, report.window)}"


def ledger_sentence(report: ShiftReport) -> str:
    """The ledger in one sentence."""
    if report.is_empty:
        return "No frames were received and none are known to be missing."
    if not report.is_ledger_balanced:
        return f"The ledger does not add up: {'; '.join(map(clean, report.mismatches))}."
    lost = report.received - report.totals.inspected
    return (
        f"Every frame is accounted for: received {count(report.received)} = "
        f"inspected {count(report.totals.inspected)} + lost {count(lost)}; "
        f"{count(report.gaps)} more were sent and never received."
    )


def yield_name(report: ShiftReport) -> str:
    """What the yield is; frames without part numbers give no first-pass yield."""
    return "yield" if has_part_for_every_frame(report) else "yield, not FPY"


def has_part_for_every_frame(report: ShiftReport) -> bool:
    """Whether every judged frame belongs to a known part, so that an FPY covers the window."""
    return report.parts is not None and report.parts.judged_frames_without_id == 0


def parts_sentence(parts: PartCounts) -> str:
    """First-pass yield and what it was counted from."""
    return (
        f"FPY {percent(parts.first_pass_yield)}: {count(parts.first_pass_ok)} of "
        f"{count(parts.parts)} parts had only OK frames; "
        f"{count(parts.judged_frames_without_id)} judged frames had no part_id."
    )


def edges(row: LedgerRow) -> str:
    """Why sent is not exactly received + gaps, although nothing is missing; empty if it is."""
    notes = []
    if row.unnumbered:
        notes.append(f"{count(row.unnumbered)} received without a running number of their own")
    if row.edge_frames:
        notes.append(f"{count(abs(row.edge_frames))} at the edge are counted in a neighbour window")
    if row.joined_at:
        notes.append(
            f"its sender was already counting: {count(row.joined_at)} earlier numbers are unknown"
        )
    return "; ".join(notes)


def open_review(report: ShiftReport) -> str:
    """How many of the REVIEW frames nobody has closed."""
    if not report.totals.review:
        return "none"
    if report.agreement is None or report.agreement.review_open == report.totals.review:
        return "all open"
    return f"{count(report.agreement.review_open)} open"


def review_sentence(agreement: Agreement) -> str:
    """What became of the REVIEW frames."""
    closed = agreement.review_ok + agreement.review_ng
    return (
        f"Of {count(closed + agreement.review_open)} REVIEW frames, labels closed {count(closed)} "
        f"({count(agreement.review_ok)} OK, {count(agreement.review_ng)} NG); "
        f"{count(agreement.review_open)} are open."
    )


def by_verdict(agreement: Agreement) -> list[tuple[Verdict, dict[LabelVerdict, int]]]:
    """Labelled frames of each verdict that has some, by label."""
    found: dict[Verdict, dict[LabelVerdict, int]] = {}
    for counted in agreement.counts:
        row = found.setdefault(counted.verdict, dict.fromkeys(LabelVerdict, 0))
        row[counted.label] = counted.frames
    return [(verdict, found[verdict]) for verdict in Verdict if verdict in found]


def night_text(night: Night) -> str:
    """Why a night ended so, and what it cost inspection."""
    text = night.detail or f"at step {night.step}"
    if night.attempts > 1:
        text += f"; {night.attempts} attempts"
    if night.latency_before_ms is not None and night.latency_during_ms is not None:
        text += (
            f"; frame to verdict {milliseconds(night.latency_before_ms)} before, "
            f"{milliseconds(night.latency_during_ms)} during"
        )
    return text


def error_sentences(agreement: Agreement) -> tuple[str, str]:
    """Escape rate and false-reject rate, each with how sure it is and where it comes from."""
    return (
        _error_sentence("Escape rate (share of OK frames that are NG)", "OK", agreement.escapes),
        _error_sentence(
            "False-reject rate (share of good frames that were called NG)",
            "NG",
            agreement.false_rejects,
        ),
    )


def _error_sentence(name: str, verdict: str, error: ErrorRate) -> str:
    wrong = f"{count(error.wrong)} of {count(error.labelled)}"
    match error.how:
        case "random":
            interval = f"95 % interval {percent(error.low)} to {percent(error.high)}"
            return (
                f"{name}: {percent(error.rate)}, {interval}; of {count(error.drawn)} {verdict} "
                f"frames drawn at random {count(error.labelled)} are labelled, "
                f"{count(error.wrong)} of them otherwise."
            )
        case "all":
            return (
                f"{name}: {percent(error.rate)}, counted: all {verdict} frames are labelled, and "
                f"the label disagrees on {wrong}."
            )
        case "chosen":
            return (
                f"{name}: unknown. The label disagrees on {wrong} {verdict} frames, but these were "
                "chosen for their scores or by a person: only frames drawn at random "
                "(`zsad label queue`, reason audit) tell a rate."
            )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed, in words."""

    at_utc: datetime
    name: str
    text: str
    is_bad: bool = False


def events(report: ShiftReport) -> Iterator[Event]:
    """Model versions taken into use and why, calibrations, and runs of the daemon."""
    for use in report.model_uses:
        text = f"{use.name} ({use.method} on {use.backbone}) for {count(use.frames)} frames"
        yield Event(use.from_utc, "model version", text)
    for made in report.calibrations:
        text = (
            f"{made.category} under {made.model_version}: REVIEW from "
            f"{score(made.review_threshold)}, NG from {score(made.ng_threshold)}; "
            f"{count(made.n_frames)} frames, {made.source}"
            f"{'' if made.is_supported else '; too few frames for the wanted rates'}"
        )
        yield Event(made.created_utc, "calibration", text)
    for change in report.model_changes:
        instead = "" if change.previous is None else f" ({_OTHER[change.kind]} {change.previous})"
        text = f"{change.version}{instead}, by {change.author}: {change.reason}"
        name = f"model {change.kind.replace('_', ' ')}"
        yield Event(change.at_utc, name, text, change.kind in ("rolled_back", "failed"))
    for run in report.daemon_runs:
        yield Event(
            run.started_utc, "daemon start", _end_of_run(run, report.window), run.has_crashed
        )


def _end_of_run(run: DaemonRun, window: ReportWindow) -> str:
    if run.has_crashed:
        return "ended without a clean stop (crash, kill or power)"
    if run.stopped_utc is None:
        return "no stop recorded: still running, or ended without a clean stop"
    return f"clean stop at {clock(run.stopped_utc, window)}"
