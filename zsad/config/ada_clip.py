"""Options of AdaCLIP."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zsad.config.section import Section

_ADA_CLIP_OFFICIAL: dict[str, object] = {
    "half_prompts": True,
    "dice_samples": "rows",
    "name_separators": "-",
}
"""Where the released code differs from the `paper` defaults below."""


class AdaCLIPConfig(Section):
    """AdaCLIP (Cao et al. 2024, arXiv 2407.15795): static and dynamic prompts in both towers.

    Activation and position interpolation are the backbone's: `quick_gelu` is the text, exact
    `gelu` the released code; both resize positions with plain `bicubic`.

    Attributes:
        preset: What options that are not given follow.
        prompts: Static tokens, dynamic ones made from the image, or the sum of both (ablation).
        prompted: Which towers get prompts (ablation).
        hybrid_fusion: Whether clusters of the most abnormal patches enter the image score
            (ablation: HSF).
        prompt_length: Prompt tokens a block.
        vision_depth: Blocks that get new prompts, published 4 of 24; None is a sixth.
        text_depth: The same, published 4 of 12; None is a third, at least 2, for the first text
            block is never prompted.
        clusters: k of the clustering; the 5 k most abnormal patches enter it.
        cluster_seed: Of its start; the released code does not fix one.
        fusion_weight: Share of the cluster feature in the image feature.
        half_prompts: Rounds prompt tokens to half precision, as the released code does even in
            single precision.
        dice_samples: Whether the Dice losses see images or, as the released code at its batch
            size of one, every row of pixels as one sample.
        name_separators: Characters of a class name that become spaces.
        sigma_px: Deviation of the test map's Gaussian.
        mosaic: Probability that a training image is replaced by a 2x2 mosaic of images of its
            class. Only where every image is seen once an epoch; views that are drawn once have
            augmentations of their own.
    """

    method: Literal["ada_clip"] = "ada_clip"
    preset: Literal["paper", "official"] = "paper"
    prompts: Literal["both", "static", "dynamic"] = "both"
    prompted: Literal["both", "vision", "text"] = "both"
    hybrid_fusion: bool = True
    prompt_length: Annotated[int, Field(ge=1, le=5)] = 5
    vision_depth: Annotated[int, Field(ge=1)] | None = None
    text_depth: Annotated[int, Field(ge=1)] | None = None
    clusters: Annotated[int, Field(ge=1)] = 20
    cluster_seed: int = 0
    fusion_weight: Annotated[float, Field(ge=0, le=1)] = 0.2
    half_prompts: bool = False
    dice_samples: Literal["images", "rows"] = "images"
    name_separators: str = "_-"
    sigma_px: Annotated[float, Field(ge=0)] = 4.0
    mosaic: Annotated[float, Field(ge=0, le=1)] = 0.2

    @model_validator(mode="before")
    @classmethod
    def _follow_preset(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("preset") == "official":
            return {**_ADA_CLIP_OFFICIAL, **values}
        return values
