"""Where in the frame a category is inspected."""

from itertools import combinations
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from daemon.config.section import CrossCheckError, Place, Section

GRID = 64
"""A region of interest must cover the middle of at least one of GRID x GRID fields of the frame."""

Share = Annotated[float, Field(ge=0, le=1)]
Point = tuple[Share, Share]
Polygon = Annotated[tuple[Point, ...], Field(min_length=3, max_length=200)]
"""Corners [x, y] as shares of the frame's width and height, from its top left; closed by itself."""


class RoiConfig(Section):
    """The region of interest: inside any `include` polygon and outside every `ignore` polygon.

    In shares of the frame, so that it holds at any resolution.

    Attributes:
        include: Without one, the whole frame.
        ignore: Taken out of it.
    """

    include: Annotated[tuple[Polygon, ...], Field(max_length=50)] = ()
    ignore: Annotated[tuple[Polygon, ...], Field(max_length=50)] = ()

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        problems: list[tuple[Place, str]] = [
            ((key, index), message)
            for key, polygons in (("include", self.include), ("ignore", self.ignore))
            for index, polygon in enumerate(polygons)
            if (message := _fault(polygon)) is not None
        ]
        if not problems and not self.mask(GRID, GRID).any():
            message = f"leaves nothing to inspect: less than 1/{GRID * GRID} of the frame"
            problems.append((("ignore" if self.ignore else "include",), message))
        if problems:
            raise CrossCheckError(problems)
        return self

    @property
    def is_whole_frame(self) -> bool:
        """Whether nothing is left out."""
        return not self.include and not self.ignore

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """True [height, width] where the middle of a pixel is to be inspected."""
        inside = _any_contains(self.include, height, width)
        if not self.include:
            inside[:] = True
        return inside & ~_any_contains(self.ignore, height, width)


def _any_contains(polygons: tuple[Polygon, ...], height: int, width: int) -> NDArray[np.bool_]:
    x = (np.arange(width) + 0.5)[None, :] / width
    y = (np.arange(height) + 0.5)[:, None] / height
    found = np.zeros((height, width), dtype=np.bool_)
    for polygon in polygons:
        inside = np.zeros((height, width), dtype=np.bool_)
        for (x0, y0), (x1, y1) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
            if y0 != y1:  # a ray to the right crosses this side
                inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        found |= inside
    return found


def _fault(polygon: Polygon) -> str | None:
    """Why it is not the outline of one area; None if it is."""
    sides = list(zip(polygon, (*polygon[1:], polygon[0]), strict=True))
    for index, (start, end) in enumerate(sides):
        if start == end:
            return f"corner {index + 1} {list(start)} stands twice in a row: remove one"
    for (i, one), (j, other) in combinations(enumerate(sides), 2):
        if (j - i) not in (1, len(sides) - 1) and _cross(*one, *other):
            return f"sides {i + 1} and {j + 1} cross: list the corners in order around the area"
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in sides) / 2
    return None if abs(area) > 1e-9 else "has no area: its corners lie on one line"


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether segments ab and cd have a point in common."""
    turns = (_turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b))
    if turns[0] * turns[1] < 0 and turns[2] * turns[3] < 0:
        return True
    corners = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(
        turn == 0 and _is_between(*corner) for turn, corner in zip(turns, corners, strict=True)
    )


def _turn(a: Point, b: Point, c: Point) -> float:
    """Above 0 for a left turn at b, 0 if straight on."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _is_between(a: Point, b: Point, c: Point) -> bool:
    """Whether c, which is in line with a and b, is between them."""
    return all(min(p, q) <= r <= max(p, q) for p, q, r in zip(a, b, c, strict=True))
