"""What an image must be like to be inspected at all."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from daemon.config.section import CrossCheckError, Section

Grey = Annotated[float, Field(ge=0, le=255)]


class SanityConfig(Section):
    """An image that breaks one of these becomes ERROR with that reason, never OK.

    By default only a dead image is refused. `zsad calibrate` prints what the images it is given
    measure, to choose the other limits from.

    Attributes:
        min_contrast: Standard deviation of the grey levels; 0 admits an even surface.
        min_brightness, max_brightness: Mean grey level, 0 to 255; None does not look.
        min_sharpness: Variance of the Laplacian of the grey levels at full resolution, which
            falls when the focus is lost; None does not look.
        frozen_after: From this many images of one camera on that are the same, the next are
            refused; None does not look. Noise makes two images of a live camera differ.
        width_px, height_px: The only size admitted; None admits any.
    """

    min_contrast: Grey = 0.5
    min_brightness: Grey | None = None
    max_brightness: Grey | None = None
    min_sharpness: Annotated[float, Field(gt=0)] | None = None
    frozen_after: Annotated[int, Field(ge=2, le=10_000)] | None = None
    width_px: Annotated[int, Field(ge=1, le=100_000)] | None = None
    height_px: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _brightness_in_order(self) -> Self:
        low, high = self.min_brightness, self.max_brightness
        if low is not None and high is not None and low >= high:
            message = f"{low:g} is not below max_brightness {high:g}: every image would be refused"
            raise CrossCheckError([(("min_brightness",), message)])
        return self
