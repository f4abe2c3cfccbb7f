"""The frozen open_clip towers under every detector: tokens at chosen blocks, text with adapters.

Refuses to know any method: what a method adds comes in as a callable applied to each block's
output. There are no hooks, so nothing stays behind after a call. With nothing added, results equal
open_clip's own.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from zsad.attention import add_mlp, attend_values
from zsad.compiled_blocks import CompiledBlocks
from zsad.config.backbone import BackboneConfig
from zsad.execution import Execution
from zsad.tower_fitting import (
    N_STAGES,
    pool_type,
    refuse_unknown_kinds,
    resize_positions,
    set_activation,
)
from zsad.tower_fitting import BackboneError as BackboneError

AfterBlock = Callable[[int, Tensor], Tensor]
"""(0-based block index, that block's output tokens [B, T, width]) -> tokens for the next block."""
Tokenizer = Callable[[list[str]], Tensor]
"""K sentences -> [K, context length] int64 token ids."""


@dataclass(frozen=True, slots=True)
class VisionTokens:
    """What the vision tower gives for a batch.

    Attributes:
        stages: One [B, 1 + N, Dv] for every block asked for, class token first, before `ln_post`.
        class_token: [B, Dv] the ordinary stream's class token after the last block, before
            `ln_post`.
    """

    stages: list[Tensor]
    class_token: Tensor


class Backbone(nn.Module):
    """A frozen CLIP in evaluation mode with explicit access to its blocks.

    Args:
        clip: open_clip `CLIP` or `CustomTextCLIP` with a `VisionTransformer`, whose `conv1` may
            be any module that maps [B, 3, S, S] to [B, Dv, S / patch, S / patch].
        config: Names the backbone and says its input side, activation and interpolation.
        mean: Channel means of the training images, RGB, in [0, 1].
        std: Channel standard deviations.
        tokenizer: Sentences to token ids of the text tower.

    Attributes:
        input_size: Side S in pixels.
        patch_px: Side of a patch in pixels.
        grid: Patches a side, g; N = g * g.
        vision_width: Dv.
        text_width: Width of the text tower.
        embed_dim: D of the joint embedding.
        n_vision_blocks: A multiple of 4.
        n_text_blocks: Depth of the text tower.
        stage_blocks: Last block of each quarter of the vision tower ([5, 11, 17, 23] of 24).
        activation: `quick_gelu`, `gelu`, or the class name of another activation.

    Raises:
        BackboneError: the network is of a kind that this class does not run.
    """

    def __init__(
        self,
        clip: nn.Module,
        config: BackboneConfig,
        mean: Sequence[float],
        std: Sequence[float],
        tokenizer: Tokenizer,
    ) -> None:
        super().__init__()
        # unless told otherwise, a GPU rounds the factors of float32 convolutions to 10 bits; golden
        # images, thresholds and features kept for training must not depend on the device
        torch.backends.cudnn.allow_tf32 = False
        self.clip: Any = clip  # open_clip ships no types
        self.config = config
        self.name = config.name
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.tokenizer = tokenizer
        refuse_unknown_kinds(self.name, self._visual, self._text)

        self.patch_px = int(self._visual.patch_size[0])
        self._source_positions = self._visual.positional_embedding.detach().clone()
        resize_positions(self.name, self._visual, config.image_size, config.position_interpolation)
        set_activation(config, self._visual, self._text)
        self.requires_grad_(False)
        self.eval()
        self._content_hash: str | None = None
        self._execution = Execution()
        self._embedding: list[tuple[Tensor, Tensor]] | None = None

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  # nn.Module's own
        """Stay in evaluation mode whatever the detector around it does."""
        return super().train(False)

    def executing(
        self, *, half: torch.dtype | None = None, checkpointing: bool = False
    ) -> AbstractContextManager[None]:
        """While it lasts, how blocks run in this thread; what they compute stays the same.

        Args:
            half: `bfloat16` or `float16` for products inside the blocks, whose weights are
                converted once and kept beside the others; the residual stream, normalisations and
                everything outside the blocks stay float32. None is float32 throughout.
            checkpointing: Whether the backward pass computes a block's inside again instead of
                keeping it.
        """
        return self._execution.asking(half, recompute=checkpointing)

    def executing_exactly(self) -> AbstractContextManager[None]:
        """While it lasts, blocks run in float32, and all else is as `executing` asked."""
        return self._execution.asking(None, recompute=self._execution.recomputes)

    def run_usually_in(self, half: torch.dtype | None) -> None:
        """Where `executing` says nothing else, products inside the blocks are of this kind."""
        self._execution.run_usually_in(half)

    def multiplying_as_blocks(self) -> AbstractContextManager[object]:
        """While it lasts, matrix products outside the blocks are of the blocks' type, in inference.

        For a method's large products alone: what comes out of them is of 16 bits then, and belongs
        back in float32 before anything that magnifies its error (norms, cosines, softmax).
        Training and float32 are as without it. Each thread has its own.
        """
        half = self.half_type if torch.is_inference_mode_enabled() else None
        if half is None:
            return nullcontext()
        return torch.autocast(self.text_projection.device.type, dtype=half, cache_enabled=False)

    @property
    def half_type(self) -> torch.dtype | None:
        """Of the products inside the blocks, in this thread; None is float32."""
        return self._execution.half

    @property
    def compiled(self) -> CompiledBlocks | None:
        """The vision blocks for fixed batch sizes; None unless `compile_blocks` made them."""
        return self._execution.compiled

    def use_compiled(self, compiled: CompiledBlocks | None) -> None:
        """From now on, vision blocks run compiled in the shapes that these know."""
        self._execution.compiled = compiled

    def _apply(self, *args: Any, **kwargs: Any) -> Self:  # nn.Module's own: `to`, `cuda`, ...
        self._execution.forget()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    @property
    def _visual(self) -> Any:
        return self.clip.visual

    @property
    def _text(self) -> Any:
        return getattr(self.clip, "text", self.clip)

    @property
    def vision_blocks(self) -> Sequence[Any]:
        """open_clip's vision blocks, or what stands for them in 16 bits."""
        return self._execution.of(self._visual.transformer.resblocks)

    @property
    def input_size(self) -> int:
        """Side S in pixels."""
        return int(self._visual.image_size[0])

    @property
    def grid(self) -> int:
        """Patches a side, g."""
        return self.input_size // self.patch_px

    @property
    def vision_width(self) -> int:
        """Dv."""
        return int(self._visual.class_embedding.shape[0])

    @property
    def text_width(self) -> int:
        """Width of the text tower."""
        return int(self._text.positional_embedding.shape[1])

    @property
    def embed_dim(self) -> int:
        """D of the joint embedding."""
        return int(self._visual.proj.shape[1])

    @property
    def n_vision_blocks(self) -> int:
        """Depth of the vision tower."""
        return len(self._visual.transformer.resblocks)

    @property
    def n_text_blocks(self) -> int:
        """Depth of the text tower."""
        return len(self._text.transformer.resblocks)

    @property
    def stage_blocks(self) -> list[int]:
        """0-based index of the last block of each quarter of the vision tower."""
        quarter = self.n_vision_blocks // N_STAGES
        return [quarter * (stage + 1) - 1 for stage in range(N_STAGES)]

    @property
    def activation(self) -> str:
        """What the MLPs of the vision tower really use."""
        layer = self._visual.transformer.resblocks[0].mlp.gelu
        names = {QuickGELU: "quick_gelu", nn.GELU: "gelu"}
        return names.get(type(layer), type(layer).__name__)

    @property
    def text_projection(self) -> Tensor:
        """[text_width, D]."""
        projection: Tensor = self._text.text_projection
        return projection

    def content_hash(self) -> str:
        """SHA-256 over names, shapes and values of all weights, as hex; computed once.

        Position embeddings enter as they were loaded: their resized form may differ in the last
        bit between processors.
        """
        if self._content_hash is None:
            digest = hashlib.sha256()
            for name, tensor in sorted(self.clip.state_dict().items()):
                is_position = name == "visual.positional_embedding"
                value = self._source_positions if is_position else tensor
                array = value.detach().cpu().contiguous()
                digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
                digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
            self._content_hash = digest.hexdigest()
        return self._content_hash

    def embed_images(self, images: Tensor) -> Tensor:
        """Patch embedding, class token, positions, `ln_pre`: what enters block 0.

        Args:
            images: [B, 3, S, S], prepared with this backbone's mean and std.

        Returns:
            [B, 1 + N, Dv].
        """
        kept = self._embedding
        for known, embedded in kept or ():
            if known is images:
                return embedded
        embedded = self.norm_input(self.embed_patches(images))
        if kept is not None and not kept:
            kept.append((images, embedded))
        return embedded

    @contextmanager
    def embedding_once(self) -> Iterator[None]:
        """While it lasts, the first images that are embedded are embedded only once.

        A detector and a reference bank look at the same tensor; the embedding is most of a
        compact backbone's cost. Nothing is kept afterwards.
        """
        before = self._embedding
        self._embedding = []
        try:
            yield
        finally:
            self._embedding = before

    def embed_patches(self, images: Tensor) -> Tensor:
        """`embed_images` before `ln_pre`: [B, 3, S, S] -> [B, 1 + N, Dv]."""
        visual = self._visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)  # [B, N, Dv]
        first = visual.class_embedding.expand(len(images), 1, -1)
        tokens: Tensor = torch.cat([first, patches], dim=1) + visual.positional_embedding
        return tokens

    def norm_input(self, tokens: Tensor) -> Tensor:
        """`ln_pre`: [B, T, Dv] -> the same shape."""
        normed: Tensor = self._visual.ln_pre(tokens)
        return normed

    def run_vision(
        self, tokens: Tensor, blocks: Sequence[int], after_block: AfterBlock | None = None
    ) -> VisionTokens:
        """Run all vision blocks one by one.

        Args:
            tokens: [B, 1 + N, Dv] from `embed_images`.
            blocks: 0-based blocks whose output is kept, ascending.
            after_block: Applied to every block's output, before it is kept or goes on.
        """
        stages = []
        for index, block in enumerate(self.vision_blocks):
            tokens = self._execution.run(block, tokens)
            if after_block is not None:
                tokens = after_block(index, tokens)
            if index in blocks:
                stages.append(tokens)
        return VisionTokens(stages=stages, class_token=tokens[:, 0])

    def first_blocks(self, tokens: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """`run_vision` that ends with the last of the blocks asked for.

        Returns:
            One [B, 1 + N, Dv] for every block asked for.
        """
        stages = []
        for index, block in enumerate(self.vision_blocks[: max(blocks) + 1]):
            tokens = self._execution.run(block, tokens)
            if index in blocks:
                stages.append(tokens)
        return stages

    @property
    def first_vv_block(self) -> int:
        """The V-V streams replace the last 19 of 24 blocks, and that share of another depth."""
        return round(self.n_vision_blocks * 5 / 24)

    def run_dual_stream(
        self, tokens: Tensor, blocks: Sequence[int], *, first_block: int | None = None
    ) -> VisionTokens:
        """The ordinary stream o, and beside it the V-V stream v (AnomalyCLIP's "DPAM").

        v starts as o before block `first_block` (None is `first_vv_block`) and adds, block by
        block, the attention of o's values among themselves, without an MLP:
        v += Attn_VV(LN1(o)).

        Returns:
            `stages` of v (of o before it starts), `class_token` of o.
        """
        first = self.first_vv_block if first_block is None else first_block
        stages = []
        local = tokens
        for index, block in enumerate(self.vision_blocks):
            if index < first:
                tokens = self._execution.run(block, tokens)
                local = tokens
            else:
                is_last = index == self.n_vision_blocks - 1
                tokens, local = self._execution.run_dual(block, tokens, local, last=is_last)
            if index in blocks:
                stages.append(local)
        return VisionTokens(stages=stages, class_token=tokens[:, 0])

    def run_batch_axis(self, tokens: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """One stream whose V-V attention runs over the images of the batch.

        AA-CLIP's released stage-1 reference: its V-V module reads [tokens, batch, width] as
        [batch, tokens, width], so each token position attends to the same position of the batch
        mates. An image's tokens depend on the other images. Kept for `preset="official"` only.

        Returns:
            One [B, 1 + N, Dv] for every block asked for.
        """
        stages = []
        for index, block in enumerate(self.vision_blocks):
            if index < self.first_vv_block:
                tokens = self._execution.run(block, tokens)
            else:
                added = attend_values(block, tokens.transpose(0, 1))  # [1 + N, B, Dv]
                tokens = add_mlp(block, tokens + added.transpose(0, 1))
            if index in blocks:
                stages.append(tokens)
        return stages

    def norm_vision(self, tokens: Tensor) -> Tensor:
        """`ln_post`: [..., Dv] -> the same shape."""
        normed: Tensor = self._visual.ln_post(tokens)
        return normed

    def project_vision(self, tokens: Tensor) -> Tensor:
        """`ln_post` and the tower's own projection: [..., Dv] -> [..., D], not unit length."""
        projected: Tensor = self.norm_vision(tokens) @ self._visual.proj
        return projected

    def project_unnormed(self, tokens: Tensor) -> Tensor:
        """The tower's own projection without `ln_post`: [..., Dv] -> [..., D]."""
        projected: Tensor = tokens @ self._visual.proj
        return projected

    def embed_text(self, token_ids: Tensor) -> Tensor:
        """Token and position embeddings: [K, L] ids -> [K, L, text_width]; L may be short."""
        return self.embed_words(token_ids) + self.text_positions[: token_ids.shape[1]]

    def embed_words(self, token_ids: Tensor) -> Tensor:
        """Token embeddings without positions: [K, L] ids -> [K, L, text_width]."""
        words: Tensor = self._text.token_embedding(token_ids)
        return words

    @property
    def text_positions(self) -> Tensor:
        """[context length, text_width]."""
        positions: Tensor = self._text.positional_embedding
        return positions

    @property
    def text_blocks(self) -> Sequence[Any]:
        """open_clip's text blocks, or what stands for them in 16 bits."""
        return self._execution.of(self._text.transformer.resblocks)

    def text_mask(self, length: int) -> Tensor:
        """The causal mask [length, length], added to attention logits."""
        mask: Tensor = self._text.attn_mask[:length, :length]
        return mask

    def norm_text(self, tokens: Tensor) -> Tensor:
        """`ln_final`: [..., text_width] -> the same shape."""
        normed: Tensor = self._text.ln_final(tokens)
        return normed

    def run_text(self, tokens: Tensor, after_block: AfterBlock | None = None) -> Tensor:
        """All causal text blocks and `ln_final`: [K, L, text_width] -> the same shape."""
        text = self._text
        length = tokens.shape[1]
        mask = text.attn_mask[:length, :length]
        for index, block in enumerate(self.text_blocks):
            tokens = self._execution.run(block, tokens, mask)
            if after_block is not None:
                tokens = after_block(index, tokens)
        normed: Tensor = text.ln_final(tokens)
        return normed

    def encode_text(
        self,
        sentences: Sequence[str],
        after_block: AfterBlock | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Sentence embeddings.

        The context is cut after the longest sentence's end-of-text token: under the causal mask
        what follows cannot reach that token.

        Args:
            sentences: K sentences.
            after_block: Applied to every text block's output.
            project: Replaces the projection of the end-of-text row [K, text_width] -> [K, D].

        Returns:
            [K, D], not unit length.
        """
        token_ids = self.tokenizer(list(sentences)).to(self.text_projection.device)
        end = self.end_of_text(token_ids)
        token_ids = token_ids[:, : int(end.max()) + 1]
        tokens = self.run_text(self.embed_text(token_ids), after_block)
        rows = tokens[torch.arange(len(tokens), device=tokens.device), end]  # [K, text_width]
        return rows @ self.text_projection if project is None else project(rows)

    def end_of_text(self, token_ids: Tensor) -> Tensor:
        """[K, L] ids -> [K] positions of the end-of-text token."""
        if pool_type(self._text) == "eos":
            eos: Any = getattr(self._text, "text_eos_id", None) or self._text.eos_id
            is_end: Tensor = token_ids == eos
            return is_end.int().argmax(dim=-1)
        return token_ids.argmax(dim=-1)
