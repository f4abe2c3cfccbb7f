"""What a calibration promises, in words; and what it would have caught."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from daemon.core import Calibration

if TYPE_CHECKING:
    from daemon.inspection.sanity import Measures


def print_calibration(console: Console, made: Calibration) -> None:
    """Thresholds, what they promise, and how many frames that would take."""
    from daemon.inspection.calibration import frames_needed, promise

    console.print(
        f"{made.category}: REVIEW from {made.review_threshold:.4f}, NG from "
        f"{made.ng_threshold:.4f} ({made.n_frames} OK frames, model {made.model_version})"
    )
    needed = frames_needed(made.ng_rate, made.confidence)
    wanted = promise(made.ng_rate, made.confidence)
    if made.is_supported:
        console.print(f"False rejects: {wanted}.")
        return
    console.print(
        f"Only {made.n_frames} OK frames: false rejects {wanted} (ng_rate {made.ng_rate:g}) needs "
        f"{needed}. Until then NG starts just above the highest OK score; expect up to "
        f"{1 / (made.n_frames + 1):.1%} false rejects."
    )


def print_detection(console: Console, made: Calibration, ng_scores: Sequence[float]) -> None:
    """How many of the NG examples reach each threshold."""
    from daemon.inspection.calibration import caught_share

    n = len(ng_scores)
    rejected = caught_share(ng_scores, made.ng_threshold)
    stopped = caught_share(ng_scores, made.review_threshold)
    console.print(
        f"NG examples: {round(rejected * n)} of {n} are NG ({rejected:.1%}), "
        f"{round(stopped * n)} are NG or REVIEW ({stopped:.1%}); "
        f"{n - round(stopped * n)} would pass as OK."
    )
    if made.review_rank is not None:
        reviewed = 1 - made.review_rank / made.n_frames
        console.print(f"Of the OK frames used here {reviewed:.1%} reach REVIEW or NG.")


def print_measures(console: Console, measured: "Sequence[Measures]") -> None:
    """What the OK images measure, to choose limits of `sanity` from."""
    if not measured:
        return
    ranges = {
        "brightness": [measures.brightness for measures in measured],
        "contrast": [measures.contrast for measures in measured],
        "sharpness": [measures.sharpness or 0.0 for measures in measured],
    }
    words = (f"{name} {min(values):.1f} to {max(values):.1f}" for name, values in ranges.items())
    console.print(f"These images have {', '.join(words)} (for the limits of `sanity`).")
