"""What is inspected, and how strictly."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from daemon.config.section import CrossCheckError, Section


class CategoryConfig(Section):
    """One product category and its decision policy.

    Attributes:
        class_name: The noun or phrase given to the text encoder ("woven fabric").
        review_rate: Share of OK parts that may score REVIEW or NG.
        ng_rate: Share of OK parts that may score NG (false rejects).
        learn_frames: Calibrate by itself after this many frames, which must all be OK parts;
            None waits for `zsad calibrate`.
        min_region_px: Regions of a smaller area, in frame pixels, are not stored.
    """

    class_name: Annotated[str, Field(min_length=1, max_length=200)]
    review_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    ng_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    learn_frames: Annotated[int, Field(ge=10, le=100_000)] | None = None
    min_region_px: Annotated[int, Field(ge=1)] = 16

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
