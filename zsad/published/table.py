"""Published tables as typed values, read from the data files beside this module.

Refuses to know how a row is trained; a column names its recipe.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from zsad.config.section import Section
from zsad.datasets.named import DatasetName
from zsad.published.recipe import RECIPES, Recipe

Metric = Literal[
    "image_AUROC",
    "image_AP",
    "image_F1max",
    "pixel_AUROC",
    "pixel_AP",
    "pixel_F1max",
    "aupro",
]
Cell = tuple[float | None, ...] | None
"""Percent, one value a metric; None where the table has a dash."""


class UnknownTableError(ValueError):
    """No published table has that name; the message lists those there are."""


def _known_recipe(value: object) -> object:
    """A data file names its recipe."""
    return RECIPES[value] if isinstance(value, str) else value


class Column(Section):
    """One method of a table.

    Attributes:
        name: As printed, or what an ablation row switches.
        recipe: How to make it again; None where the paper does not say what it ran.
        own: Whether it is the paper's own method.
        options: Departures of an ablation from the recipe's method.
    """

    name: str
    recipe: Annotated[Recipe | None, BeforeValidator(_known_recipe)] = None
    own: bool = False
    options: dict[str, JsonValue] = Field(default_factory=dict)


class Row(Section):
    """One data set, or one category of it.

    Attributes:
        set: Tested data set.
        category: None is the unweighted mean over the set's categories.
        values: One cell a column.
    """

    set: DatasetName
    category: str | None = None
    values: tuple[Cell, ...]

    @property
    def key(self) -> str:
        """`set` or `set/category`, as `Mean.over` names it."""
        return self.set if self.category is None else f"{self.set}/{self.category}"


class Mean(Section):
    """A printed unweighted mean over rows, given by their keys."""

    name: str
    over: Annotated[tuple[str, ...], Field(min_length=1)]
    values: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class PublishedValue:
    """One number of a table, in percent."""

    row: Row
    column: Column
    metric: Metric
    percent: float


class PublishedTable(Section):
    """One table of a paper.

    Attributes:
        name: For the command line.
        source: Paper, version, table number.
        notes: Inconsistencies and readings that a comparison must know.
    """

    name: str
    title: str
    source: str
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    means: tuple[Mean, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[DatasetName, ...]:
        """Tested data sets in the order of the rows."""
        return tuple(dict.fromkeys(row.set for row in self.rows))

    def values(self) -> Iterator[PublishedValue]:
        """Every printed number of the rows."""
        for row in self.rows:
            for column, cell in zip(self.columns, row.values, strict=True):
                for metric, percent in zip(self.metrics, cell or (), strict=cell is not None):
                    if percent is not None:
                        yield PublishedValue(row, column, metric, percent)

    @model_validator(mode="after")
    def _refuse_ragged_rows(self) -> Self:
        keys = {row.key for row in self.rows}
        printed: tuple[Row | Mean, ...] = (*self.rows, *self.means)
        for row in printed:
            name = row.key if isinstance(row, Row) else row.name
            if len(row.values) != len(self.columns):
                raise ValueError(f"{name} has {len(row.values)} cells, not {len(self.columns)}")
            if any(cell is not None and len(cell) != len(self.metrics) for cell in row.values):
                raise ValueError(f"{name}: a cell has not {len(self.metrics)} values")
            if isinstance(row, Mean) and not keys.issuperset(row.over):
                raise ValueError(f"{name} is over rows that are not there")
        return self


def table_names() -> tuple[str, ...]:
    """All published tables, sorted."""
    folder = files("zsad.published") / "tables"
    return tuple(sorted(p.name[: -len(".json")] for p in folder.iterdir() if ".json" in p.name))


def read_table(name: str) -> PublishedTable:
    """The table of that name.

    Raises:
        UnknownTableError: there is none.
    """
    if name not in table_names():
        raise UnknownTableError(f"no table is named {name!r}: choose {', '.join(table_names())}")
    text = (files("zsad.published") / "tables" / f"{name}.json").read_text(encoding="utf-8")
    return PublishedTable.model_validate({"name": name, **json.loads(text)})
