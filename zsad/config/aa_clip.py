"""Options of AA-CLIP."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zsad.config.section import Section

_AA_CLIP_OFFICIAL: dict[str, str] = {
    "stage1_reference": "batch_axis",
    "stage1_levels": "last",
    "stage1_class_feature": "added",
    "text_projector": "fresh",
    "stage2_segmentation": "per_level",
    "disentangle": "square_of_mean",
    "test_map": "linear",
    "test_image_score": "min_max",
}
"""Where the released code differs from the `paper` defaults below."""


class AAClipConfig(Section):
    """AA-CLIP (Ma et al. 2025, CVPR): two-stage residual adapters.

    An option that is not given follows the preset: `paper` is the published text, `official`
    the released code with its quirks (needed to reproduce the published tables).

    Attributes:
        preset: What options that are not given follow.
        domain: `medical` smooths the test map with 9x9 sigma 1.5 instead of 7x7 sigma 1 and
            leaves the image term out of the test-set image score.
        stage1_reference: AA-1. `dual_stream`: V-V attention over patches beside the ordinary
            stream. `batch_axis`: one stream whose V-V attention runs over the images of the
            batch (the code's transposed axes), so an image's features depend on its batch mates.
        stage1_levels: AA-2. Levels whose segmentation loss trains stage 1: the sum over `all`
            four or the `last` alone.
        stage1_class_feature: AA-2. `classified`: cross-entropy on the class token. `added`: no
            image loss; the class token is added to every patch feature.
        text_projector: AA-3. `pretrained`: the backbone's text projection, made trainable.
            `fresh`: a new Xavier layer followed by LeakyReLU.
        stage2_segmentation: AA-4. `fused`: one loss on the renormalised sum of the levels.
            `per_level`: the sum of one loss a level.
        disentangle: AA-5. `mean_of_squares` of <T_N, T_A> over the classes of the batch, or
            `square_of_mean` over its images.
        test_map: AA-7. Map that an evaluation with the statistics of a whole test set ranks: the
            streaming `probability`, or the unbounded `linear` score. `predict` always gives the
            probability.
        test_image_score: AA-8. Image score that the method's own evaluation ranks: the `streaming`
            one, or `min_max` over the whole test set of a category. `predict` always streams.
        image_loss_temperature: AA-9. Divides the two cosines of the image cross-entropy.
        residual_ratio: AA-10. lambda of Eq. 2.
        text_adapters: AA-10. K_T, published 3 of 12; None is a quarter of the text depth.
        vision_adapters: AA-10. K_I, published 6 of 24; None is a quarter of the vision depth.
        disentangle_weight: AA-10. gamma of Eq. 6.
        augment: Whether training on every image turns, shifts and flips it (released code), and
            in stage 2 also changes brightness, contrast and saturation.
    """

    method: Literal["aa_clip"] = "aa_clip"
    preset: Literal["paper", "official"] = "paper"
    domain: Literal["industrial", "medical"] = "industrial"
    stage1_reference: Literal["dual_stream", "batch_axis"] = "dual_stream"
    stage1_levels: Literal["all", "last"] = "all"
    stage1_class_feature: Literal["classified", "added"] = "classified"
    text_projector: Literal["pretrained", "fresh"] = "pretrained"
    stage2_segmentation: Literal["fused", "per_level"] = "fused"
    disentangle: Literal["mean_of_squares", "square_of_mean"] = "mean_of_squares"
    test_map: Literal["probability", "linear"] = "probability"
    test_image_score: Literal["streaming", "min_max"] = "streaming"
    image_loss_temperature: Annotated[float, Field(gt=0)] = 1.0
    residual_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    text_adapters: Annotated[int, Field(ge=0)] | None = None
    vision_adapters: Annotated[int, Field(ge=0)] | None = None
    disentangle_weight: Annotated[float, Field(ge=0)] = 0.1
    augment: bool = True

    @model_validator(mode="before")
    @classmethod
    def _follow_preset(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("preset") == "official":
            return {**_AA_CLIP_OFFICIAL, **values}
        return values
