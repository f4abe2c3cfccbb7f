"""The picture of a benchmark: what each method costs beside what its operations would cost."""

import io
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from zsad.benchmark import Benchmark, Timed

_MEASURED, _ANALYTIC, _INK = "#2b6cb0", "#cbd5e0", "#1f2933"
_BAR = 0.4
_LEFT = 0.7
_LETTERS_AN_INCH = 10
"""Of the title."""
_TICKS = (1, 2, 5, 10, 20, 50, 100)


def ratio_plot(found: Benchmark, title: str) -> bytes:
    """PNG: bars of measured over analytic ratio by method, one panel a batch size.

    Args:
        found: At least one row.
        title: Backbone, device and precision in words.
    """
    batches = sorted({row.batch for row in found.rows})
    methods = list(dict.fromkeys(row.method for row in found.rows))
    figure = Figure(
        figsize=(1.6 + 3.4 * len(batches), 1.8 + 0.42 * len(methods)), layout="constrained"
    )
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    at = {name: -float(number) for number, name in enumerate(methods)}
    for axes, batch in zip(panels, batches, strict=True):
        rows = [row for row in found.rows if row.batch == batch]
        _draw(axes, rows, np.array([at[row.method] for row in rows]))
        axes.set_title(f"batch {batch}", fontsize=10)
        axes.set_yticks(list(at.values()), methods)
    # outside: constrained layout then keeps it clear of the axis labels
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    width = int(_LETTERS_AN_INCH * figure.get_figwidth())
    figure.suptitle(textwrap.fill(title, width), fontsize=11, color=_INK)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()


def _draw(axes: Axes, rows: list[Timed], y: NDArray[np.float64]) -> None:
    measured = [row.ratio for row in rows]
    analytic = [row.analytic_ratio for row in rows]
    axes.barh(y + _BAR / 2, measured, _BAR, color=_MEASURED, label="measured")
    axes.barh(y - _BAR / 2, analytic, _BAR, color=_ANALYTIC, label="by operations")
    for height, value in zip(y, measured, strict=True):
        axes.annotate(
            f"{value:.2f}",
            (value, height + _BAR / 2),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_INK,
        )
    axes.axvline(1.0, color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    lowest, highest = min(*measured, *analytic), max(*measured, *analytic)
    axes.set_xlim(min(_LEFT, 0.8 * lowest), highest * 1.8)  # room for the numbers
    axes.set_xticks([tick for tick in _TICKS if tick <= highest * 1.5])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.minorticks_off()
    axes.set_xlabel("time / bare visual forward")
