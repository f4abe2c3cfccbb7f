"""Options of FAPrompt."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from zsad.config.section import Section

_OFFICIAL: dict[str, object] = {
    "selection": "first",
    "abnormal_words": "damaged object.",
    "peaks": "two_to_one",
    "image_loss": "cross_entropy_and_logit_focal",
    "round_deep_fp16": True,
    "dice_rowwise_b1": True,
}
"""Where the released code differs from the `paper` defaults below."""


class FAPromptConfig(Section):
    """FAPrompt (Zhu et al. 2025, ICCV): fine-grained abnormality prompts with an image prior.

    An option that is not given follows the preset: `paper` is the published text, `official`
    the released code with its quirks.

    Attributes:
        preset: What options that are not given follow.
        cap: Ablation. False: AnomalyCLIP's two prompts, on which the paper's ablation is built:
            one normal and one abnormal, 12 tokens each, none shared; L_CAP has no pair.
        dap: Ablation. False: no prior network; only the prior-free maps and prompts.
        selection: FA-1. Patches that the prior network reads: the `top` M by abnormality in
            descending order, or the `first` M in raster order (the released code's gather).
        abnormal_words: FA-2. What follows the learned tokens of an abnormality prompt.
        peaks: FA-3. Map term s' of the image score: `equal` mean of the maxima without and with
            prior, or weighted `two_to_one`.
        image_loss: FA-3. `focal` on the image score as a probability, or the cross-entropy of
            the class token plus a focal loss that takes the image score for a logit.
        plain_map_weight: FA-4. Of the losses of the map without prior.
        prior_map_weight: FA-4. Of the losses of the map with prior.
        orthogonality_weight: FA-4. Of L_CAP; 0 is the ablation without it.
        prior_weight: FA-4. Of L_prior; 0 is the ablation without it.
        image_weight: FA-4. Of the image losses.
        prior_reduction: FA-5. L_prior is the `sum` over the normal images of a batch of the mean
            square of omega, or that over the batch size (`mean`).
        smoothing_sigma: FA-7. Deviation in pixels of the Gaussian on the map; 0 is none.
        prototype: FA-8. F_a from the `raw` prompt embeddings' mean, or from the mean of the
            `normalised` ones.
        cls_ln_post: Whether the class token passes `ln_post` as in CLIP; the released code
            leaves it out.
        round_deep_fp16: Round deep tokens to half precision, as the released code does.
        dice_rowwise_b1: A batch of one counts its rows as samples in the Dice losses, as the
            released code does.
        temperature: tau; divides the cosines.
        normal_tokens: E, tokens shared by all prompts (CAP).
        abnormal_tokens: E', further tokens of each abnormality prompt (CAP).
        prompts: K, abnormality prompts (CAP).
        patches: M, patches that the prior network reads.
        deep_tokens: Tokens written over the first positions between text blocks, at most
            `normal_tokens`; 0 switches them off.
    """

    method: Literal["fa_prompt"] = "fa_prompt"
    preset: Literal["paper", "official"] = "paper"
    cap: bool = True
    dap: bool = True
    selection: Literal["top", "first"] = "top"
    abnormal_words: Literal["object.", "damaged object."] = "object."
    peaks: Literal["equal", "two_to_one"] = "equal"
    image_loss: Literal["focal", "cross_entropy_and_logit_focal"] = "focal"
    plain_map_weight: Annotated[float, Field(ge=0)] = 1.0
    prior_map_weight: Annotated[float, Field(ge=0)] = 0.5
    orthogonality_weight: Annotated[float, Field(ge=0)] = 0.1
    prior_weight: Annotated[float, Field(ge=0)] = 1.0
    image_weight: Annotated[float, Field(ge=0)] = 1.0
    prior_reduction: Literal["sum", "mean"] = "sum"
    smoothing_sigma: Annotated[float, Field(ge=0)] = 10.0
    prototype: Literal["raw", "normalised"] = "raw"
    cls_ln_post: bool = False
    round_deep_fp16: bool = False
    dice_rowwise_b1: bool = False
    temperature: Annotated[float, Field(gt=0)] = 0.07
    normal_tokens: Annotated[int, Field(ge=1, le=32)] = 5
    abnormal_tokens: Annotated[int, Field(ge=1, le=32)] = 2
    prompts: Annotated[int, Field(ge=1)] = 10
    patches: Annotated[int, Field(ge=1)] = 10
    deep_tokens: Annotated[int, Field(ge=0)] = 4

    @model_validator(mode="before")
    @classmethod
    def _follow_preset(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("preset") == "official":
            return {**_OFFICIAL, **values}
        return values

    @model_validator(mode="after")
    def _refuse_deep_tokens_over_other_tokens(self) -> Self:
        if self.deep_tokens > self.normal_tokens:
            raise ValueError(
                f"deep_tokens {self.deep_tokens} is above normal_tokens {self.normal_tokens}: "
                "deep tokens may replace the shared tokens only"
            )
        return self
