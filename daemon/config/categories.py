"""What is inspected, and how strictly."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from daemon.config.recipe import RoiConfig
from daemon.config.sanity import SanityConfig
from daemon.config.section import CrossCheckError, Place, Section


class CategoryConfig(Section):
    """One product category: how it is looked at, and its decision policy.

    Attributes:
        class_name: The noun or phrase given to the text encoder ("woven fabric").
        checkpoint: Folder of a model for this category, of any method; None is the line's
            (`model`). Nights leave such a model, and the category, alone.
        roi: Where in the frame; with one, the score is the highest map value inside it.
        sanity: What an image must be like to be inspected.
        review_rate: Share of OK parts that may score REVIEW or NG.
        ng_rate: Share of OK parts that may score NG (false rejects).
        confidence: How sure it must be that both rates hold from now on; None promises them
            on average over all calibrations.
        review_as: The verdict between the two thresholds.
        learn_frames: Calibrate by itself after this many frames, which must all be OK parts;
            None waits for `zsad calibrate`.
        min_region_px: Regions of a smaller area, in frame pixels, are not stored.
        min_defect_px: Side of the smallest defect that must be seen, in frame pixels; None looks
            at the frame as a whole, at the detector's input side.
        tiling: `auto` cuts a frame into tiles where `min_defect_px` asks for it.
        max_tiles: A frame that needs more is an ERROR; each costs as much as a whole frame.
        reduced_decode: A JPEG whose sides are at least four times the detector's input side is
            decoded at a half, a quarter or an eighth, down to twice that side: less work, and
            scores that move by some thousandths.
        references: The detector compares with this many OK frames of the product, which come
            before those of `learn_frames`; 0 is pure zero-shot.
    """

    class_name: Annotated[str, Field(min_length=1, max_length=200)]
    checkpoint: Path | None = None
    roi: RoiConfig = RoiConfig()
    sanity: SanityConfig = SanityConfig()
    review_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    ng_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    review_as: Literal["REVIEW", "NG", "OK"] = "REVIEW"
    learn_frames: Annotated[int, Field(ge=10, le=100_000)] | None = None
    min_region_px: Annotated[int, Field(ge=1)] = 16
    min_defect_px: Annotated[int, Field(ge=2, le=10_000)] | None = None
    tiling: Literal["auto", "never"] = "auto"
    max_tiles: Annotated[int, Field(ge=1, le=1024)] = 64
    reduced_decode: bool = False
    references: Annotated[int, Field(ge=0, le=300)] = 0

    @property
    def recipe(self) -> str:
        """Short hash of everything here that changes a frame's score.

        Scores of two recipes do not compare, so thresholds belong to one.
        """
        scoring = self.model_dump_json(
            include={"class_name", "roi", "min_defect_px", "tiling", "reduced_decode"},
            exclude_defaults=True,
        )
        return hashlib.sha256(scoring.encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _rates_in_order(self) -> Self:
        if self.ng_rate > self.review_rate:
            raise CrossCheckError(
                [
                    (
                        ("ng_rate",),
                        f"{self.ng_rate} is above review_rate {self.review_rate}: parts that are "
                        "NG are among those that are not OK",
                    )
                ]
            )
        return self

    @model_validator(mode="after")
    def _tiling_and_references_can_be(self) -> Self:
        problems: list[tuple[Place, str]] = []
        if "tiling" in self.model_fields_set and self.tiling == "auto" and not self.min_defect_px:
            problems.append(
                (
                    ("tiling",),
                    "auto follows from the smallest defect: add min_defect_px, its side in "
                    "pixels of the frame",
                )
            )
        if self.reduced_decode and self.min_defect_px is not None and self.tiling == "auto":
            problems.append(
                (
                    ("reduced_decode",),
                    "throws away what min_defect_px asks to see: remove one of them",
                )
            )
        if self.references == 1:
            problems.append(
                (("references",), "1 cannot be compared with others: use 2 or more, or 0 for none")
            )
        if problems:
            raise CrossCheckError(problems)
        return self
