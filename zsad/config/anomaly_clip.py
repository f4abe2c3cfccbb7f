"""Options of AnomalyCLIP."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from zsad.config.section import Section

_OFFICIAL: dict[str, object] = {"round_deep_fp16": True, "dice_rowwise_b1": True}
"""Where the released code differs from the `paper` defaults below."""


class AnomalyCLIPConfig(Section):
    """AnomalyCLIP (Zhou et al. 2024, ICLR): object-agnostic learned prompts.

    An option that is not given follows the preset: `paper` is the published text, `official`
    the released code.

    Attributes:
        preset: What options that are not given follow.
        levels: AC-1. Blocks whose maps are trained and added up: the `last` (the released
            scripts), or the last block of `all` four stages.
        cls_ln_post: AC-2. Whether the class token passes `ln_post` as in CLIP; the released
            code leaves it out.
        segmentation_weight: AC-3. lambda of the map losses.
        smoothing_sigma: AC-4. Deviation in pixels of the Gaussian on the map; 0 is none.
        round_deep_fp16: AC-5. Round deep tokens to half precision, as the released code does.
        dice_rowwise_b1: A batch of one counts its rows as samples in the Dice losses, as the
            released code does.
        temperature: Divides the cosines.
        prompt_tokens: E, learned tokens of each of the two prompts.
        deep_tokens: Tokens written over the first positions between text blocks, at most
            `prompt_tokens`; 0 switches them off (the paper's ablation).
    """

    method: Literal["anomaly_clip"] = "anomaly_clip"
    preset: Literal["paper", "official"] = "paper"
    levels: Literal["last", "all"] = "last"
    cls_ln_post: bool = False
    segmentation_weight: Annotated[float, Field(ge=0)] = 4.0
    smoothing_sigma: Annotated[float, Field(ge=0)] = 4.0
    round_deep_fp16: bool = False
    dice_rowwise_b1: bool = False
    temperature: Annotated[float, Field(gt=0)] = 0.07
    prompt_tokens: Annotated[int, Field(ge=1, le=64)] = 12
    deep_tokens: Annotated[int, Field(ge=0, le=64)] = 4

    @model_validator(mode="before")
    @classmethod
    def _follow_preset(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("preset") == "official":
            return {**_OFFICIAL, **values}
        return values

    @model_validator(mode="after")
    def _refuse_deep_tokens_over_words(self) -> Self:
        if self.deep_tokens > self.prompt_tokens:
            raise ValueError(
                f"deep_tokens {self.deep_tokens} is above prompt_tokens {self.prompt_tokens}: "
                "deep tokens may replace learned tokens only"
            )
        return self
