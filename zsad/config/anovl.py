"""Options of AnoVL."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zsad.config.section import Section


class AnoVLConfig(Section):
    """AnoVL (Deng et al. 2023, arXiv 2308.15939): V-V attention and test-time adaptation.

    The backbone of the published rows is `ViT-B-16-plus-240` with the LAION-400M weights at 240.
    Nothing is trained beforehand: every image trains a small adapter for itself, which costs a
    multiple of a plain pass.

    Attributes:
        preset: `official` inserts class names as they are given.
        resampling: How images are resized; the only method published with bilinear.
        views: Whether the image score is the mean over 22 turned, shifted and grey views, or
            that of the image alone (ablation).
        adaptation_steps: Optimiser steps an image; 0 leaves the patches as they are (ablation).
        learning_rate: Of AdamW.
        noise_std: Of the noise that makes the adapter's negatives.
        seed: Of the adapter's start and of the noise, the same for every image.
        spell_out_names: Whether underscores of a name become spaces.
    """

    method: Literal["anovl"] = "anovl"
    preset: Literal["paper", "official"] = "paper"
    resampling: Literal["bilinear", "bicubic"] = "bilinear"
    views: Literal["all", "one"] = "all"
    adaptation_steps: Annotated[int, Field(ge=0)] = 5
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    noise_std: Annotated[float, Field(ge=0)] = 0.055
    seed: int = 0
    spell_out_names: bool = True

    @model_validator(mode="before")
    @classmethod
    def _follow_preset(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("preset") == "official":
            return {"spell_out_names": False, **values}
        return values
