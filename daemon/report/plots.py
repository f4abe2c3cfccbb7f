"""Plots of a report as SVG text; matplotlib without a display and without global state."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from zoneinfo import ZoneInfo

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from daemon.core import Verdict
from daemon.report import words
from daemon.report.contents import LatencySummary, ScoreSummary, ShiftReport

COLOURS = {
    Verdict.OK: "#2f855a",
    Verdict.NG: "#c53030",
    Verdict.REVIEW: "#dd8a0b",
    Verdict.LEARNING: "#7b8fa8",
    Verdict.ERROR: "#5a4a78",
}
LOST_COLOUR = "#9b8bb4"
GAP_COLOUR = "#c4c4c4"
_INK = "#1f2933"


def verdict_plot(report: ShiftReport) -> str:
    """Stacked bars: frames over time by verdict, lost ones and gaps on top."""
    with _style():
        figure = Figure(figsize=(10.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        at = np.arange(len(report.slices))
        bottom = np.zeros(len(report.slices))
        counts = [hour.counts for hour in report.slices]
        series = [
            ("OK", COLOURS[Verdict.OK], [c.ok for c in counts]),
            ("REVIEW", COLOURS[Verdict.REVIEW], [c.review for c in counts]),
            ("NG", COLOURS[Verdict.NG], [c.ng for c in counts]),
            ("LEARNING", COLOURS[Verdict.LEARNING], [c.learning for c in counts]),
            ("ERROR", COLOURS[Verdict.ERROR], [c.error for c in counts]),
            ("lost without row", LOST_COLOUR, [hour.lost for hour in report.slices]),
            ("never received", GAP_COLOUR, [hour.gap for hour in report.slices]),
        ]
        for name, colour, frames in series:
            if any(frames):
                axes.bar(at, frames, 0.72, bottom=bottom, color=colour, label=name)
                bottom += np.array(frames, dtype=float)
        step = -(-len(at) // 16)  # at most 16 labels
        axes.set_xticks(at[::step], [_slice_label(report, i) for i in at[::step]])
        axes.set_xlim(-0.6, max(len(at), 4) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("frames")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if bottom.any():
            axes.legend(ncols=7, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderpad=0.2)
        return _svg(figure)


def score_plot(report: ShiftReport, category: str) -> str:
    """Scores of one category over time with the thresholds in force, and their histogram."""
    summaries = [summary for summary in report.scores if summary.category == category]
    with _style():
        figure = Figure(figsize=(10.6, 2.7), layout="constrained")
        over_time, histogram = figure.subplots(1, 2, sharey=True, width_ratios=(3.4, 1))
        _draw_points(over_time, report, category)
        _draw_thresholds(over_time, summaries)
        _draw_model_changes(over_time, report)
        _draw_histogram(histogram, summaries)
        over_time.set_ylabel("score")
        over_time.set_ylim(0, _score_limit(summaries))
        zone = ZoneInfo(report.window.zone)
        locator = AutoDateLocator(tz=zone, maxticks=9)  # type: ignore[no-untyped-call] # matplotlib's
        over_time.xaxis.set_major_locator(locator)
        over_time.xaxis.set_major_formatter(
            ConciseDateFormatter(locator, tz=zone, show_offset=False)  # type: ignore[no-untyped-call]
        )
        over_time.legend(ncols=6, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderpad=0.2)
        return _svg(figure)


def latency_plot(latency: LatencySummary) -> str:
    """Histogram of frame-to-verdict times on a logarithmic axis, with p50 and p99."""
    with _style():
        figure = Figure(figsize=(5.2, 2.5), layout="constrained")
        axes = figure.add_subplot()
        axes.stairs(
            latency.histogram, latency.edges_ms, fill=True, color="#4a6fa5", edgecolor="white"
        )
        for name, value_ms in (("p50", latency.p50_ms), ("p99", latency.p99_ms)):
            axes.axvline(
                value_ms, color=_INK, linewidth=1, linestyle=":" if name == "p50" else "--"
            )
            axes.text(
                value_ms,
                1.01,
                f"{name} {words.milliseconds(value_ms)}",
                transform=axes.get_xaxis_transform(),
                ha="right" if name == "p50" else "left",
                va="bottom",
                fontsize=8,
            )
        filled = np.flatnonzero(latency.histogram)
        axes.set_xscale("log")
        axes.set_xlim(
            latency.edges_ms[max(0, filled[0] - 2)],
            latency.edges_ms[min(len(latency.histogram), filled[-1] + 3)],
        )
        axes.xaxis.set_major_formatter(lambda value, _: words.milliseconds(value))
        axes.xaxis.set_minor_formatter("")
        axes.set_ylabel("frames")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return _svg(figure)


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "svg.fonttype": "path",
            "svg.hashsalt": "zsad",  # the same report gives the same bytes
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "text.color": _INK,
            "axes.edgecolor": "#b8c2cc",
            "axes.labelcolor": _INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e8ecf0",
            "xtick.color": _INK,
            "ytick.color": _INK,
            "legend.frameon": False,
        }
    )


def _draw_points(axes: Axes, report: ShiftReport, category: str) -> None:
    for verdict in (Verdict.LEARNING, Verdict.OK, Verdict.REVIEW, Verdict.NG):
        points = [
            point
            for point in report.score_points
            if point.category == category and point.verdict == verdict
        ]
        if points:
            axes.plot(
                _days([point.received_utc for point in points]),
                [point.score for point in points],
                "o",
                markersize=2.6 if verdict in (Verdict.OK, Verdict.LEARNING) else 3.4,
                markeredgewidth=0,
                alpha=0.55 if verdict in (Verdict.OK, Verdict.LEARNING) else 0.9,
                color=COLOURS[verdict],
                label=verdict.value,
            )


def _draw_thresholds(axes: Axes, summaries: Sequence[ScoreSummary]) -> None:
    """Each pair of thresholds from its first frame to its last."""
    named = set()
    for summary in summaries:
        for name, value, verdict in (
            ("NG from", summary.ng_threshold, Verdict.NG),
            ("REVIEW from", summary.review_threshold, Verdict.REVIEW),
        ):
            if value is not None:
                axes.plot(
                    _days([summary.from_utc, summary.to_utc]),
                    [value, value],
                    color=COLOURS[verdict],
                    linewidth=1.3,
                    linestyle="-" if verdict == Verdict.NG else "--",
                    label=None if name in named else name,
                )
                named.add(name)


def _draw_model_changes(axes: Axes, report: ShiftReport) -> None:
    """An upright line where another model began to inspect, with the end of its name."""
    for use in report.model_uses[1:]:
        (at,) = _days([use.from_utc])
        axes.axvline(at, color=_INK, linewidth=1, linestyle=(0, (6, 2)))
        axes.text(
            at,
            0.985,
            f" model …{use.name[-6:]}",
            transform=axes.get_xaxis_transform(),
            va="top",
            fontsize=7.5,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )


def _draw_histogram(axes: Axes, summaries: Sequence[ScoreSummary]) -> None:
    """Sideways and logarithmic; learning frames and every model version by themselves."""
    for index, summary in enumerate(summaries):
        edges = np.linspace(0, 1, len(summary.histogram) + 1)
        is_learning = summary.ng_threshold is None
        axes.stairs(
            summary.histogram,
            edges,
            orientation="horizontal",
            fill=True,
            alpha=0.65,
            color=COLOURS[Verdict.LEARNING] if is_learning else ("#4a6fa5", "#7a9cc6")[index % 2],
        )
    for summary in summaries[-1:]:
        for value, verdict in (
            (summary.ng_threshold, Verdict.NG),
            (summary.review_threshold, Verdict.REVIEW),
        ):
            if value is not None:
                style = "-" if verdict == Verdict.NG else "--"
                axes.axhline(value, color=COLOURS[verdict], linewidth=1.3, linestyle=style)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(lambda frames, _: words.count(round(frames)))
    axes.set_xlim(left=0)
    axes.set_xlabel("frames (log)")


def _score_limit(summaries: Sequence[ScoreSummary]) -> float:
    """Upper end of the score axis: the highest bin in use or threshold, with room above."""
    highest = 0.0
    for summary in summaries:
        bins = len(summary.histogram)
        highest = max(highest, (np.flatnonzero(summary.histogram)[-1] + 1) / bins)
        highest = max(highest, summary.ng_threshold or 0.0)
    return min(1.02, 1.1 * highest)


def _days(instants: Sequence[datetime]) -> list[float]:
    """Days since 1970 UTC, matplotlib's unit of dates."""
    return [instant.timestamp() / 86400 for instant in instants]


def _slice_label(report: ShiftReport, index: int) -> str:
    """HH:MM or HH:MM:SS; below it the date where a day begins, or the zone after a clock change."""
    zone = ZoneInfo(report.window.zone)
    local = report.slices[index].start_utc.astimezone(zone)
    has_seconds = any(part.start_utc.second for part in report.slices[1:])
    label = f"{local:%H:%M:%S}" if has_seconds else f"{local:%H:%M}"
    if index == 0:
        return f"{label}\n{local:%Y-%m-%d %Z}"
    before = report.slices[index - 1].start_utc.astimezone(zone)
    if local.utcoffset() != before.utcoffset():
        return f"{label}\n{local:%Z}"
    return f"{label}\n{local:%Y-%m-%d}" if local.date() != before.date() else label


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
