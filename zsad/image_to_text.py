"""Image-to-text prompting (I2TP) of MFP-CLIP: an image vector mixed into the text tokens.

Yuan et al. 2025, Eqs. 1-2; symbols as printed. Refuses to know where the image vector comes from.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.layers import identity_linear, linear_layer


class ImageToText(nn.Module):
    """From sentences and one image vector each to sentence embeddings.

    Args:
        feature_width: Of F_cnn.
        text_width: Of the text tower.
        context: Text tokens that the tower has positions for.
        generator: Source of the initial weights.
        axis: Where the image vector joins: `channel`, `extra_token` or `token_axis`.
        projection: `linear`, or an `mlp` of two layers with ReLU between.
    """

    def __init__(
        self,
        feature_width: int,
        text_width: int,
        context: int,
        generator: torch.Generator,
        *,
        axis: Literal["channel", "extra_token", "token_axis"] = "channel",
        projection: Literal["linear", "mlp"] = "linear",
    ) -> None:
        super().__init__()
        self.axis = axis
        self.context = context
        first = linear_layer(feature_width, text_width, generator)
        self.image_projection: nn.Module = (
            first
            if projection == "linear"
            else nn.Sequential(first, nn.ReLU(), linear_layer(text_width, text_width, generator))
        )
        # each starts at the model without image prompts: [I | 0]
        match axis:
            case "channel":
                self.token_projection = identity_linear(2 * text_width, text_width)
            case "extra_token":
                self.token_projection = identity_linear(text_width, text_width)
            case "token_axis":
                self.token_projection = identity_linear(context + 1, context)

    def forward(self, backbone: Backbone, sentences: Sequence[str], features: Tensor) -> Tensor:
        """F_t (Eq. 2c), with gradients into this module through the frozen tower.

        Args:
            backbone: Gives words, positions, tower and projection.
            sentences: K.
            features: F_cnn of each sentence's image, [K, feature_width].

        Returns:
            [K, D], not unit norm.

        Raises:
            ValueError: a sentence leaves no room for the extra token.
        """
        token_ids = backbone.tokenizer(list(sentences)).to(features.device)
        end = backbone.end_of_text(token_ids)
        if self.axis != "token_axis":  # what follows the end cannot reach it
            token_ids = token_ids[:, : int(end.max()) + 1]
        image = self.image_projection(features)  # [K, text_width]
        words = backbone.embed_words(token_ids)
        tokens, end = self._mix(words, image, end)
        length = tokens.shape[1]
        if length > self.context:
            longest = max(sentences, key=len)
            raise ValueError(
                f"{longest!r} and an image token need {length} text tokens, the text tower has "
                f"{self.context}; use a shorter class name"
            )
        # few tokens, and what they lose in 16 bits moves all patches of all images one way
        with backbone.executing_exactly():
            out = backbone.run_text(tokens + backbone.text_positions[:length])
        rows = out[torch.arange(len(out), device=out.device), end]  # [K, text_width]
        return rows @ backbone.text_projection

    def _mix(self, words: Tensor, image: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Eqs. 2a-2b: words [K, L, text_width] -> mixed tokens and where their end token is."""
        match self.axis:
            case "channel":
                # Linear([P_t; F]) = W_1 P_t + (W_2 F + b): F is not repeated on every token
                W, b = self.token_projection.weight, self.token_projection.bias
                width = words.shape[-1]
                shift = F.linear(image, W[:, width:], b)
                return F.linear(words, W[:, :width]) + shift[:, None], end
            case "extra_token":
                place = torch.arange(words.shape[1] + 1, device=words.device)[None]
                order = place - (place > end[:, None]).long()  # words behind the image shift by one
                order = torch.where(place == end[:, None], words.shape[1], order)
                joined = torch.cat([words, image[:, None]], dim=1)
                index = order[:, :, None].expand(-1, -1, words.shape[-1])
                return self.token_projection(joined.gather(1, index)), end + 1
            case "token_axis":
                joined = torch.cat([words, image[:, None]], dim=1).mT  # [K, text_width, L + 1]
                return self.token_projection(joined).mT, end
