"""How a frozen tower's blocks run: in float32 or 16 bits, keeping or recomputing their inside.

Refuses to know what blocks are put together to.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zsad.attention import in_one_pass, run_dual, run_whole
from zsad.compiled_blocks import CompiledBlocks

_ASKED: ContextVar[tuple[torch.dtype | None, bool] | None] = ContextVar("asked", default=None)
"""What `executing` asks for; each thread has its own, for two may share a backbone."""


class HalfBlock:
    """An open_clip block whose matrices are of 16 bits; norms and layer scales are its own.

    Attributes are those of `ResidualAttentionBlock` that `zsad.attention` reads.
    """

    def __init__(self, block: Any, half: torch.dtype) -> None:
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.ls_1, self.ls_2 = block.ls_1, block.ls_2
        # made in a forward, where tensors would be of inference only, and kept for training too
        with torch.inference_mode(False), torch.no_grad():
            self.attn = copy.deepcopy(block.attn).to(half)
            self.mlp = in_one_pass(copy.deepcopy(block.mlp)).to(half)


class Execution:
    """How the blocks of one network run; what they compute stays the same.

    Attributes:
        compiled: Takes the place of `zsad.attention` in the shapes that it knows, in inference.
    """

    def __init__(self) -> None:
        self.compiled: CompiledBlocks | None = None
        self._usual_half: torch.dtype | None = None
        self._halves: dict[torch.dtype, dict[nn.Module, HalfBlock]] = {}

    @contextmanager
    def asking(self, half: torch.dtype | None, *, recompute: bool) -> Iterator[None]:
        """See `Backbone.executing`."""
        asked = _ASKED.set((half, recompute))
        try:
            yield
        finally:
            _ASKED.reset(asked)

    def run_usually_in(self, half: torch.dtype | None) -> None:
        """See `Backbone.run_usually_in`."""
        self._usual_half = half

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass computes a block's inside again, in this thread."""
        asked = _ASKED.get()
        return asked is not None and asked[1]

    @property
    def half(self) -> torch.dtype | None:
        """Of the blocks' matrices, in this thread; None is float32."""
        asked = _ASKED.get()
        return self._usual_half if asked is None else asked[0]

    def forget(self) -> None:
        """The network was moved: its copies in 16 bits are made anew when they are needed."""
        self._halves.clear()

    def of(self, blocks: Sequence[nn.Module]) -> list[Any]:
        """The blocks themselves, or in 16 bits: converted once, for good."""
        half = self.half
        if half is None:
            return list(blocks)
        kept = self._halves.setdefault(half, {})
        for block in blocks:
            if block not in kept:
                kept[block] = HalfBlock(block, half)
        return [kept[block] for block in blocks]

    def run(self, block: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """One block of `of`: [A, T, W] -> the same shape.

        In float32 training runs torch's own layer, to the last bit what the released code
        computes; otherwise in parts, which takes less time and memory (`run_whole`).
        """
        is_inference = torch.is_inference_mode_enabled()
        is_known = is_inference and type(block) is ResidualAttentionBlock
        run = run_whole if is_known or isinstance(block, HalfBlock) else _run_itself
        if self.recomputes and torch.is_grad_enabled() and tokens.requires_grad:
            # no randomness in a block: evaluation mode
            recomputed: Tensor = checkpoint(
                run, block, tokens, mask, use_reentrant=False, preserve_rng_state=False
            )
            return recomputed
        if run is run_whole and is_inference and mask is None and self.compiled is not None:
            whole: Tensor = self.compiled.run(run_whole, self.half, block, tokens)
            return whole
        return run(block, tokens, mask)

    def run_dual(
        self, block: Any, tokens: Tensor, local: Tensor, *, last: bool
    ) -> tuple[Tensor, Tensor]:
        """`attention.run_dual` for a block of `of`."""
        if self.compiled is not None and torch.is_inference_mode_enabled():
            both: tuple[Tensor, Tensor] = self.compiled.run(
                run_dual, self.half, block, tokens, local, last=last
            )
            return both
        return run_dual(block, tokens, local, last=last)


def _run_itself(block: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
    output: Tensor = block(tokens, attn_mask=mask)
    return output
