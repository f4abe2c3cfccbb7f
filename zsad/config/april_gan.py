"""Options of APRIL-GAN."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zsad.config.section import Section


class AprilGANConfig(Section):
    """APRIL-GAN, zero-shot (Chen et al. 2023, arXiv 2305.17382), also called VAND.

    Activation and position interpolation are the backbone's: `quick_gelu` is the text, exact
    `gelu` the released code; both resize positions with `bicubic_antialias`.

    Attributes:
        preset: What options that are not given follow; `official` inserts class names as given.
        spell_out_names: Whether underscores of a name become spaces.
        epochs: 15 when VisA is the auxiliary set, 3 for MVTec AD with its mosaics.
        mosaic: Probability that a training image is replaced by a 2x2 mosaic of images of its
            class: 0.2 for MVTec AD, none for VisA (AG-3). Only where every image is seen once an
            epoch; views that are drawn once have augmentations of their own.
    """

    method: Literal["april_gan"] = "april_gan"
    preset: Literal["paper", "official"] = "paper"
    spell_out_names: bool = True
    epochs: Annotated[int, Field(ge=1)] = 15
    mosaic: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _follow_preset(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("preset") == "official":
            return {"spell_out_names": False, **values}
        return values
