"""Options of MFP-CLIP."""

from typing import Annotated, Literal

from pydantic import Field

from zsad.config.self_prompting import SelfPromptingSection


class MFPClipConfig(SelfPromptingSection):
    """MFP-CLIP: prompts from the image to text, to the image encoder, and by a masked second pass.

    No code was released; where the text is silent, the default is the reading that its tables
    support.

    Attributes:
        i2tp: Ablation: False keeps the text prompts the same for all images (I2TP).
        mp: Ablation: False stops after the first pass (mask prompting, MP).
        article: MFP-16. Before "abnormal"; the text prints "a".
        i2tp_axis: MFP-1. The image vector is concatenated to every token's channels (`channel`),
            inserted as one more token before the end (`extra_token`), or mixed in along the
            token axis (`token_axis`, which lets tokens see what follows them).
        i2tp_projection: MFP-2. Of the image vector: `linear`, or an `mlp` of two layers.
        adapter_layers: MFP-6. Linear layers of a stage's adapter.
        adapter_activation: MFP-6. Behind each.
        adapter_final_activation: MFP-6. Whether the last one has it too.
        mask_space: MFP-8. The map multiplies the `normalised` image or its `rgb` values.
        mask_gradient: MFP-9. Whether the second pass trains the first through the map.
        mask_range: MFP-9. The map as it is (`raw`) or stretched to [0, 1] per image (`min_max`).
        mp_tokens: MFP-10. Tokens that are merged: `patches`, or `all` with the class token.
        mp_place: MFP-10. Merged `before_ln_pre` or `after_ln_pre`.
        supervision: MFP-11. Losses on `both` passes or only on the `refined` one.
        dice_rowwise_b1: MFP-13. A batch of one counts its rows as samples, as the family's
            released code does.
        batch_size: MFP-15. Of training.
    """

    method: Literal["mfp_clip"] = "mfp_clip"
    i2tp: bool = True
    mp: bool = True
    article: Literal["an", "a"] = "an"
    i2tp_axis: Literal["channel", "extra_token", "token_axis"] = "channel"
    i2tp_projection: Literal["linear", "mlp"] = "linear"
    adapter_layers: Literal[1, 2] = 2
    adapter_activation: Literal["leaky_relu", "relu", "gelu"] = "leaky_relu"
    adapter_final_activation: bool = True
    mask_space: Literal["normalised", "rgb"] = "normalised"
    mask_gradient: bool = False
    mask_range: Literal["raw", "min_max"] = "raw"
    mp_tokens: Literal["patches", "all"] = "patches"
    mp_place: Literal["before_ln_pre", "after_ln_pre"] = "before_ln_pre"
    supervision: Literal["both", "refined"] = "both"
    dice_rowwise_b1: bool = False
    batch_size: Annotated[int, Field(ge=1)] = 1

    @property
    def uses_image_features(self) -> bool:
        """Whether any part reads the image vector."""
        return self.sp or self.i2tp
