"""Options that AFR-CLIP and MFP-CLIP share: self prompting, patch aggregation, map and text."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from zsad.config.section import Section


class SelfPromptingSection(Section):
    """Self prompting (SP) and multi-patch feature aggregation (MPFA).

    MLP activation and position interpolation of the towers are options of the backbone
    (published reading: QuickGELU, bicubic with antialiasing).

    Attributes:
        preset: No code was released, so there is only the published text.
        sp: Ablation: False leaves the visual prompt tokens out.
        sp_features: Where the image vector behind the prompts (and MFP-CLIP's text prompts) comes
            from. `cnn`: a frozen CNN, published as ResNet-50. `patch_embedding`: the mean of what
            the backbone's own frozen patch embedding gives. Not given, it is `cnn` where
            `sp_cnn_weights` is, for ImageNet weights do not come with this package.
        sp_cnn: timm name of the CNN; `resnet50_clip` is the other reading.
        sp_cnn_weights: Its weights, a file of timm's or torchvision's tensor names.
        sp_cnn_sha256: What that file must be; a trained detector's card holds it.
        sp_cnn_level: Map that is averaged: the `last` (2048 channels in ResNet-50) or the
            `second_last` (1024).
        sp_cnn_size: Input side of the CNN in pixels; None is the backbone's.
        sp_adapters: K, the number of image-specific tokens, and of unified ones.
        sp_tokens: `both` kinds, or only the `image`-specific or the `unified` ones.
        sp_combine: Both kinds one after the other (`concat`, 2K tokens) or their `sum` (K).
        sp_placement: `drop`: append, overwrite before each next block, drop after the last
            prompted stage. `keep`: they stay, and change, in the stages behind. `overwrite`: the
            literal text, prompts take the place of the last patches.
        sp_stages: How many of the four stages are prompted.
        mpfa: Ablation: False leaves the neighbourhood average out.
        mpfa_window: N, odd; an average over N x N patches.
        mpfa_border: Cells outside the grid are left out (`valid`) or count as `zero`.
        temperature: tau of the patch softmax; the papers give none, CLIP's own is 0.01.
        align_corners: Of the bilinear upsampling of probabilities.
        smoothing_px: Deviation of a Gaussian on the output map; 0 is none.
        dice: Dice loss on the `abnormal` channel or on `both`.
        betas: Adam's.
    """

    preset: Literal["paper"] = "paper"
    sp: bool = True
    sp_features: Literal["cnn", "patch_embedding"] = "patch_embedding"
    sp_cnn: str = "resnet50"
    sp_cnn_weights: str | None = None
    sp_cnn_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    sp_cnn_level: Literal["last", "second_last"] = "last"
    sp_cnn_size: Annotated[int, Field(ge=32, le=2048)] | None = None
    sp_adapters: Annotated[int, Field(ge=1, le=64)] = 5
    sp_tokens: Literal["both", "image", "unified"] = "both"
    sp_combine: Literal["concat", "sum"] = "concat"
    sp_placement: Literal["drop", "keep", "overwrite"] = "drop"
    sp_stages: Annotated[int, Field(ge=1, le=4)] = 1
    mpfa: bool = True
    mpfa_window: Annotated[int, Field(ge=1, le=15)] = 3
    mpfa_border: Literal["valid", "zero"] = "valid"
    temperature: Annotated[float, Field(gt=0)] = 0.01
    align_corners: bool = False
    smoothing_px: Annotated[float, Field(ge=0, le=64)] = 0.0
    dice: Literal["abnormal", "both"] = "abnormal"
    betas: tuple[float, float] = (0.9, 0.999)

    @property
    def window(self) -> int:
        """N, or 1 without MPFA."""
        return self.mpfa_window if self.mpfa else 1

    @property
    def uses_image_features(self) -> bool:
        """Whether any part reads the image vector."""
        return self.sp

    @property
    def wants_cnn(self) -> bool:
        """Whether the image vector comes from a CNN and is read."""
        return self.sp_features == "cnn" and self.uses_image_features

    @model_validator(mode="before")
    @classmethod
    def _follow_weights(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("sp_cnn_weights") is not None:
            return {"sp_features": "cnn", **values}
        return values

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.wants_cnn and self.sp_cnn_weights is None:
            raise ValueError(
                f"sp_features is cnn, but sp_cnn_weights is empty: give the path of a file with "
                f"ImageNet weights of {self.sp_cnn} (timm's model.safetensors or torchvision's "
                ".pth), or set sp_features to patch_embedding, which needs no file"
            )
        if self.mpfa_window % 2 == 0:
            raise ValueError(f"mpfa_window is {self.mpfa_window}; it must be odd, for example 3")
        return self
