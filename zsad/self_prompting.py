"""Self prompting (SP) of AFR-CLIP and MFP-CLIP: visual prompt tokens made from a CNN's features.

Refuses to know which method prompts and which backbone is prompted.
"""

import torch
from torch import Tensor, nn

from zsad.backbone import Backbone, VisionTokens
from zsad.config.self_prompting import SelfPromptingSection
from zsad.frozen_cnn import FrozenCnn
from zsad.layers import linear_layer

_UNIFIED_STD = 0.02


class SelfPrompting(nn.Module):
    """Image-specific tokens P_v and unified tokens PT (AFR-CLIP Eqs. 15-16, MFP-CLIP Eqs. 3-4).

    Args:
        feature_width: Of the image vector F_cnn.
        token_width: Dv.
        options: K, kinds, combination, placement and stages.
        generator: Source of the initial weights.

    Attributes:
        n_tokens: Prompt tokens an image.
    """

    def __init__(
        self,
        feature_width: int,
        token_width: int,
        options: SelfPromptingSection,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        K = options.sp_adapters
        self.options = options
        self.token_width = token_width
        stacked = options.sp_tokens == "both" and options.sp_combine == "concat"
        self.n_tokens = 2 * K if stacked else K
        if options.sp_tokens != "unified":
            # A_1 ... A_K as one matrix
            self.adapters = linear_layer(feature_width, K * token_width, generator)
        if options.sp_tokens != "image":
            unified = torch.empty(K, token_width)
            if not unified.is_meta:
                unified.normal_(0.0, _UNIFIED_STD, generator=generator)
            self.unified = nn.Parameter(unified)

    def prompts(self, features: Tensor) -> Tensor:
        """F_cnn [B, feature_width] -> prompt tokens [B, n_tokens, Dv]."""
        kinds = []
        if self.options.sp_tokens != "unified":
            kinds.append(self.adapters(features).reshape(len(features), -1, self.token_width))
        if self.options.sp_tokens != "image":
            kinds.append(self.unified.expand(len(features), -1, -1))
        if self.options.sp_combine == "sum":
            return torch.stack(kinds).sum(0)
        return torch.cat(kinds, dim=1)

    def run_vision(self, backbone: Backbone, embedded: Tensor, features: Tensor) -> VisionTokens:
        """All blocks, prompted from the second block to the end of the last prompted stage.

        Block by block the prompts of the block before are thrown away and the same P_v put in
        their place (AFR-CLIP Eqs. 17-18). Where a stage has only one block, that one is prompted.

        Args:
            backbone: The towers.
            embedded: [B, 1 + N, Dv] from `backbone.embed_images`.
            features: [B, feature_width], F_cnn.

        Returns:
            Tokens of the four stages without the prompts.
        """
        P_v = self.prompts(features).to(embedded.dtype)
        n, patches_end = self.n_tokens, embedded.shape[1]
        overwrite = self.options.sp_placement == "overwrite"
        if overwrite and n >= patches_end:
            raise ValueError(f"{n} prompt tokens leave none of {patches_end - 1} patches")
        last = backbone.stage_blocks[self.options.sp_stages - 1]
        first = min(1, backbone.stage_blocks[0])  # the first block that reads prompts

        def before_block(index: int, tokens: Tensor) -> Tensor:
            if first <= index <= last:
                kept = patches_end - n if overwrite else patches_end
                return torch.cat([tokens[:, :kept], P_v], dim=1)
            if index == last + 1 and self.options.sp_placement == "drop":
                return tokens[:, :patches_end]
            return tokens

        tokens = backbone.run_vision(
            before_block(0, embedded),
            backbone.stage_blocks,
            after_block=lambda index, tokens: before_block(index + 1, tokens),
        )
        stages = [stage[:, :patches_end] for stage in tokens.stages]
        return VisionTokens(stages=stages, class_token=tokens.class_token)


def check_cnn(options: SelfPromptingSection, cnn: FrozenCnn | None) -> None:
    """Raise ValueError unless a CNN is there exactly where the options want one."""
    if options.wants_cnn != (cnn is not None):
        raise ValueError(
            f"sp_features is {options.sp_features}, but {'no' if cnn is None else 'a'} CNN was "
            "given; take what zsad.frozen_cnn.load_frozen_cnn makes of the options"
        )


def image_features(cnn: FrozenCnn | None, images: Tensor, embedded: Tensor) -> Tensor:
    """F_cnn, without gradient.

    Args:
        cnn: The frozen CNN; None takes the mean of the backbone's embedded patches.
        images: [B, 3, S, S] prepared.
        embedded: [B, 1 + N, Dv] from `Backbone.embed_images`.

    Returns:
        [B, CNN width or Dv].
    """
    with torch.no_grad():
        return embedded[:, 1:].mean(dim=1) if cnn is None else cnn(images)


def feature_width(cnn: FrozenCnn | None, backbone: Backbone) -> int:
    """Width of `image_features`."""
    return backbone.vision_width if cnn is None else cnn.width
