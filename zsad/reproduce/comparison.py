"""Our numbers beside the published ones.

Refuses to know how a number was made; it reads the results that a plan's steps left.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zsad.evaluate import METRIC_TITLES
from zsad.published.table import Mean, Row
from zsad.reproduce.plan import MeasureStep, Plan


class ResultError(ValueError):
    """A result file is damaged; the message names it."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One published number and ours.

    Attributes:
        row: Data set, `set/category`, or the name of a mean.
        column: Method as printed.
        metric: JSON key of the metric.
        published: Percent; None where the table has a dash.
        ours: Percent; None while a step is open or where the metric is undefined.
    """

    row: str
    column: str
    metric: str
    published: float | None
    ours: float | None

    @property
    def difference(self) -> float | None:
        """Ours minus published, in points."""
        if self.published is None or self.ours is None:
            return None
        return self.ours - self.published


class _Result(BaseModel):
    """What of a result file is compared."""

    model_config = ConfigDict(frozen=True)
    categories: Annotated[dict[str, dict[str, float | None]], Field(min_length=1)]
    mean: dict[str, float | None]


def compare(plan: Plan) -> tuple[Compared, ...]:
    """Every number of the plan's columns, rows first, then means.

    A mean is compared once all its rows are there.

    Raises:
        ResultError: a result file is damaged.
    """
    results = _read_results(plan.test)
    table, compared = plan.table, []
    sets = {step.test_set for step in plan.test}
    rows = [row for row in table.rows if row.set in sets]
    keys = {row.key for row in rows}
    means = [mean for mean in table.means if keys.issuperset(mean.over)]
    printed: tuple[Row | Mean, ...] = (*rows, *means)
    for item in printed:
        for column in plan.columns:
            cell = item.values[table.columns.index(column)]
            for index, metric in enumerate(table.metrics):
                ours = _ours(item, rows, column.name, metric, results)
                published = None if cell is None else cell[index]
                name = item.key if isinstance(item, Row) else item.name
                compared.append(Compared(name, column.name, metric, published, ours))
    return tuple(compared)


def to_markdown(compared: Iterable[Compared], title: str) -> str:
    """One line a number, in percent."""
    lines = [f"{title}\n", "| row | method | metric | published | ours | difference |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: |")
    for one in compared:
        cells = [one.row, one.column, METRIC_TITLES[one.metric]]
        lines.append("| " + " | ".join([*cells, *in_percent(one)]) + " |")
    return "\n".join(lines) + "\n"


def in_percent(compared: Compared) -> tuple[str, str, str]:
    """Published, ours and difference as words; a dash for what is not there."""
    difference = compared.difference
    return (
        _word(compared.published),
        _word(compared.ours),
        "-" if difference is None else f"{difference:+.1f}",
    )


def to_json(compared: Iterable[Compared]) -> list[dict[str, str | float | None]]:
    """One object a number; null for what is not there."""
    return [
        {
            "row": one.row,
            "method": one.column,
            "metric": one.metric,
            "published": one.published,
            "ours": one.ours,
            "difference": one.difference,
        }
        for one in compared
    ]


def _ours(
    item: Row | Mean,
    rows: Iterable[Row],
    column: str,
    metric: str,
    results: Mapping[tuple[str, str], _Result],
) -> float | None:
    if isinstance(item, Mean):
        members = [row for row in rows if row.key in item.over]
        values = [_ours(row, (), column, metric, results) for row in members]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(item.over) else None
    result = results.get((column, item.set))
    if result is None:
        return None
    scores = result.mean if item.category is None else result.categories.get(item.category, {})
    value = scores.get(metric)
    return None if value is None else 100 * value


def _read_results(steps: Iterable[MeasureStep]) -> dict[tuple[str, str], _Result]:
    """By column and test set."""
    results: dict[tuple[str, str], _Result] = {}
    for step in steps:
        if not step.is_done:
            continue
        try:
            content = json.loads(step.result.read_text(encoding="utf-8"))
            result = _Result.model_validate(content)
        except (OSError, ValueError, ValidationError) as error:
            raise ResultError(
                f"{step.result} is no result ({error}): remove it to test again"
            ) from error
        results |= {(column, step.test_set): result for column in step.columns}
    return results


def _word(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.1f}"
