"""Options of AFR-CLIP."""

from typing import Annotated, Literal

from pydantic import Field

from zsad.config.self_prompting import SelfPromptingSection


class AFRClipConfig(SelfPromptingSection):
    """AFR-CLIP: a stateless prompt, shifted by each patch, against two stateful prompts.

    No code was released; where the text is silent, the default is the reading that its ablations
    and its predecessor MFP-CLIP support.

    Attributes:
        cmfr: Ablation: False compares patches with the two stateful prompts directly.
        abnormal_word: Of the abnormal prompt; the method section says `defective`, the
            introduction `abnormal`.
        normalise: AFR-1. Patch and text features have unit length before rectification.
        cmfr_kernel: AFR-2. Side of both convolutions.
        cmfr_hidden_divisor: AFR-2. r; the hidden width is D / r.
        cmfr_order: AFR-2. The linear layer comes before the convolutions (`linear_first`) or
            behind them (`linear_last`).
        text_weight: AFR-3. What the second weight map does: nothing (`unused`), or it adds its
            share of the stateless prompt (`residual`).
        cmfr_shared: AFR-4. One set of weights for all stages instead of one a stage.
        image_score: AFR-5. `class_token` through the last stage's rectification; `patch_mean`,
            the mean rectified patch of all stages; `map_max`, the map's peak; `mean`, of
            `class_token` and `map_max`.
        stage_adapter: AFR-7. One `linear` layer, `two_layer` as in MFP-CLIP, or `ln_post_linear`.
        loss_on: AFR-12. Map losses on the `fused` map, or summed over `stages`.
        text_adapter_init: AFR-13. `identity` starts at CLIP's embeddings.
        batch_size: Of training.
    """

    method: Literal["afr_clip"] = "afr_clip"
    cmfr: bool = True
    abnormal_word: Literal["defective", "abnormal"] = "defective"
    normalise: bool = True
    cmfr_kernel: Literal[1, 3] = 1
    cmfr_hidden_divisor: Annotated[int, Field(ge=1, le=64)] = 1
    cmfr_order: Literal["linear_first", "linear_last"] = "linear_first"
    text_weight: Literal["unused", "residual"] = "unused"
    cmfr_shared: bool = False
    image_score: Literal["class_token", "patch_mean", "map_max", "mean"] = "class_token"
    stage_adapter: Literal["linear", "two_layer", "ln_post_linear"] = "linear"
    loss_on: Literal["fused", "stages"] = "fused"
    text_adapter_init: Literal["identity", "default"] = "identity"
    batch_size: Annotated[int, Field(ge=1)] = 4
