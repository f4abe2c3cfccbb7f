"""What a method costs in floating-point operations, from formulas; nothing is measured.

Two operations per multiply-add. Layer norms, activations, softmax and losses are left out (below
one percent). Refuses to know data sets, weights and how fast a machine is.
"""

import copy
import math
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zsad.backbone import Backbone
from zsad.config.aa_clip import AAClipConfig
from zsad.config.ada_clip import AdaCLIPConfig
from zsad.config.afr_clip import AFRClipConfig
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.config.anovl import AnoVLConfig
from zsad.config.april_gan import AprilGANConfig
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.config.cocoop import CoCoOpConfig
from zsad.config.coop import CoOpConfig
from zsad.config.fa_prompt import FAPromptConfig
from zsad.config.linear_probe import LinearProbeConfig
from zsad.config.method import MethodConfig
from zsad.config.mfp_clip import MFPClipConfig
from zsad.config.mvfa_ad import MVFAConfig
from zsad.config.self_prompting import SelfPromptingSection
from zsad.config.winclip import WinCLIPConfig
from zsad.detector import MethodStage

RESNET50_FLOPS_224 = 8.18e9
"""He et al. 2016: 4.09 G multiply-adds at 224 px; grows with the area."""
SENTENCE_TOKENS = 12
"""Tokens of a hand-written prompt with a class name, begin and end included; most have 9 to 17."""
WORDS_TOKENS = 4
"""Begin, `object`, full stop, end: what surrounds learned tokens."""
AA_SENTENCES, ADA_SENTENCES = 16, 48
ANOVL_VIEWS = 22
ANOVL_SENTENCES = 924


@dataclass(frozen=True, slots=True)
class Tower:
    """One transformer.

    Attributes:
        width: Of its tokens.
        mlp: Width inside its MLPs.
        blocks: How many.
    """

    width: int
    mlp: int
    blocks: int

    def linear(self, tokens: int) -> float:
        """The matrices of one block: attention's four and the MLP's two."""
        return 2.0 * tokens * (4 * self.width**2 + 2 * self.width * self.mlp)

    def attention(self, tokens: int) -> float:
        """Scores and weighted sum of one block; every token sees every token."""
        return 4.0 * tokens**2 * self.width

    def forward(self, tokens: int, blocks: int | None = None) -> float:
        """Some blocks, all by default."""
        count = self.blocks if blocks is None else blocks
        return count * (self.linear(tokens) + self.attention(tokens))

    def backward(self, tokens: int, blocks: int | None = None) -> float:
        """To the input of frozen blocks: matrices once, attention's two products twice each."""
        count = self.blocks if blocks is None else blocks
        return count * (self.linear(tokens) + 2 * self.attention(tokens))


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a backbone decides the cost.

    Attributes:
        patches: N.
        embedding: Operations of the patch embedding.
        embed: D.
        first_vv: First block with a V-V stream.
        stages: Blocks in a quarter of the vision tower.
        side: Of the image in pixels.
    """

    vision: Tower
    text: Tower
    patches: int
    embedding: float
    embed: int
    first_vv: int
    stages: int
    side: int

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.patches + 1

    @property
    def visual_pass(self) -> float:
        """Patch embedding and all vision blocks."""
        return self.embedding + self.vision.forward(self.tokens)

    def vv_streams(self, blocks: int) -> float:
        """V-V attention and its output projection beside `blocks` ordinary blocks."""
        width, tokens = self.vision.width, self.tokens
        return blocks * (self.vision.attention(tokens) + 2.0 * tokens * width**2)

    def prompts(self, count: float, tokens: int = SENTENCE_TOKENS) -> float:
        """Text tower over `count` prompts of that many tokens (cut after their end)."""
        return count * self.text.forward(tokens)

    def per_patch(self, *shapes: tuple[int, int]) -> float:
        """Linear maps on every patch."""
        return sum(2.0 * self.patches * a * b for a, b in shapes)


@dataclass(frozen=True, slots=True)
class ImageCost:
    """Operations for one image.

    Attributes:
        vision: Vision tower, everything that runs in its blocks included.
        text: Prompts that depend on the image; those of a category are made once and left out.
        heads: All the rest: adapters, CNN, maps.
    """

    vision: float
    text: float
    heads: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.vision + self.text + self.heads


@dataclass(frozen=True, slots=True)
class StageCost:
    """Operations of training on one image in one stage.

    Attributes:
        frozen: Constants of the frozen backbone that the trainer may keep after the first epoch.
        trained: What every epoch computes.
    """

    frozen: float
    trained: float

    def of(self, stage: MethodStage) -> float:
        """One image through all epochs; a stage that names its constants computes them once.

        Mosaics exist once, so theirs are never kept.
        """
        again = 1.0 if stage.frozen is None else stage.mosaic
        return self.frozen * (1 + again * (stage.epochs - 1)) + self.trained * stage.epochs


def shape_of(backbone: Backbone) -> Shape:
    """Of a backbone, which may be an outline."""
    clip = backbone.clip
    text = getattr(clip, "text", clip)
    towers = [
        Tower(width, int(tower.transformer.resblocks[0].mlp.c_fc.out_features), blocks)
        for tower, width, blocks in (
            (clip.visual, backbone.vision_width, backbone.n_vision_blocks),
            (text, backbone.text_width, backbone.n_text_blocks),
        )
    ]
    return Shape(
        vision=towers[0],
        text=towers[1],
        patches=backbone.grid**2,
        embedding=_embedding(backbone),
        embed=backbone.embed_dim,
        first_vv=backbone.first_vv_block,
        stages=backbone.n_vision_blocks // 4,
        side=backbone.input_size,
    )


def image_cost(method: MethodConfig, shape: Shape) -> ImageCost:  # noqa: C901  # one arm a method
    """Operations of testing one image whose category's text is already embedded."""
    full, D, Dv = shape.visual_pass, shape.embed, shape.vision.width
    vv = full + shape.vv_streams(shape.vision.blocks - shape.first_vv)
    levels = 4 * shape.per_patch((Dv, D))
    match method:
        case CLIPZeroShotConfig() | CoOpConfig():
            return ImageCost(full, 0.0, 0.0)
        case LinearProbeConfig():
            return ImageCost(full, 0.0, 2.0 * (shape.patches + 2) * Dv)
        case CoCoOpConfig():
            length = method.context_tokens + WORDS_TOKENS + 1
            return ImageCost(full, shape.prompts(2, length), 0.0)
        case AprilGANConfig():
            return ImageCost(full, 0.0, levels)
        case AnomalyCLIPConfig():
            return ImageCost(vv, 0.0, 0.0)
        case FAPromptConfig():
            refined = method.prompts if method.dap else 0
            prior = 2.0 * (method.patches * D * D * 5 // 8 + D * D * 5 // 8) if method.dap else 0.0
            return ImageCost(vv, shape.prompts(refined, _fa_prompt_tokens(method)), prior)
        case AFRClipConfig():
            heads = _cnn(method, shape) + levels + _rectification(method, shape)
            return ImageCost(full + _prompt_tokens(method, shape), 0.0, heads)
        case MFPClipConfig():
            passes = 2 if method.mp else 1
            text = shape.prompts(2, SENTENCE_TOKENS) if method.i2tp else 0.0
            adapters = levels + (method.adapter_layers - 1) * 4 * shape.per_patch((D, D))
            merged = shape.per_patch((2 * Dv, Dv)) if method.mp else 0.0
            return ImageCost(
                passes * (full + _prompt_tokens(method, shape)),
                text,
                _cnn(method, shape) + passes * adapters + merged,
            )
        case AAClipConfig():
            asked = method.vision_adapters
            count = shape.vision.blocks // 4 if asked is None else asked
            residual = count * 2.0 * shape.tokens * Dv**2
            return ImageCost(full + residual, 0.0, levels + shape.per_patch((Dv, D)))
        case AdaCLIPConfig():
            passes = 1 if method.prompts == "static" else 2
            sentences = ADA_SENTENCES if method.prompts != "static" else 0
            text = shape.prompts(sentences, SENTENCE_TOKENS + 3)
            again = (passes - 1) * (full - shape.embedding)  # the same patches enter again
            return ImageCost(full + again, text, levels)
        case MVFAConfig():
            bottlenecks = 4 * 2 * 2 * 2.0 * shape.tokens * Dv * D
            return ImageCost(full + bottlenecks, 0.0, 0.0)
        case WinCLIPConfig():
            return ImageCost(full + _windows(method, shape), 0.0, 0.0)
        case AnoVLConfig():
            views = ANOVL_VIEWS if method.views == "all" else 1
            stream = full + shape.vv_streams(shape.vision.blocks)
            adapt = 2 * shape.per_patch((D, ANOVL_SENTENCES))  # to the sentences and back
            steps = method.adaptation_steps * 2 * 3 + 1  # clean and noisy, forward and backward
            # the image's own class token comes with its stream
            return ImageCost(stream + (views - 1) * full, 0.0, steps * adapt)
        case _:
            assert_never(method)


def training_costs(  # noqa: C901  # one arm a method
    method: MethodConfig, shape: Shape, batch_sizes: tuple[int, ...]
) -> tuple[StageCost, ...]:
    """Operations of training on one image, by stage.

    A trained head costs three times its forward pass. Frozen blocks between it and what is trained
    cost their input's gradient; nothing else of the towers runs backwards. What a step computes
    once is shared by its images.

    Args:
        batch_sizes: Of the stages, in order.
    """
    cost = image_cost(method, shape)
    later = shape.vision.backward(shape.tokens, shape.vision.blocks - 1)
    heads = 3 * cost.heads
    match method:
        case CLIPZeroShotConfig() | LinearProbeConfig() | WinCLIPConfig() | AnoVLConfig():
            return ()  # a probe has no stages
        case AprilGANConfig():
            return (StageCost(cost.vision, heads),)
        case AnomalyCLIPConfig():
            length = method.prompt_tokens + WORDS_TOKENS + 1
            return (StageCost(cost.vision, _trained_prompts(shape, 2 / batch_sizes[0], length)),)
        case FAPromptConfig():
            shared = (method.prompts + 1) / batch_sizes[0]
            refined = method.prompts if method.dap else 0
            texts = _trained_prompts(shape, shared + refined, _fa_prompt_tokens(method))
            return (StageCost(cost.vision, heads + texts),)
        case CoOpConfig() | CoCoOpConfig():
            length = method.context_tokens + WORDS_TOKENS + 1
            return (StageCost(cost.vision, _trained_prompts(shape, 2, length)),)
        case AFRClipConfig():
            backward = later if method.sp else 0.0
            trained = _trained_heads(method, shape, cost.heads)
            return (StageCost(0.0, cost.vision + backward + trained),)
        case MFPClipConfig():
            first = later if method.sp and method.supervision == "both" else 0.0
            second = shape.vision.backward(shape.tokens) if method.mp else 0.0
            text = _trained_prompts(shape, 2, SENTENCE_TOKENS) if method.i2tp else 0.0
            trained = _trained_heads(method, shape, cost.heads)
            return (StageCost(0.0, cost.vision + first + second + text + trained),)
        case AAClipConfig():
            vv = shape.vv_streams(shape.vision.blocks - shape.first_vv)
            single = method.stage1_reference == "batch_axis"
            reference = 2 * shape.visual_pass if single else shape.visual_pass + vv
            anchors = _trained_prompts(shape, AA_SENTENCES, SENTENCE_TOKENS)
            adapters = 2 * (cost.vision - shape.visual_pass)
            vision = cost.vision + later + adapters + heads
            return (StageCost(reference, anchors), StageCost(0.0, vision))
        case AdaCLIPConfig():
            texts = cost.text + shape.prompts(ADA_SENTENCES)
            return (StageCost(0.0, cost.vision + later + texts + heads),)
        case MVFAConfig():
            adapters = 2 * (cost.vision - shape.visual_pass)
            behind = shape.vision.backward(shape.tokens, 3 * shape.stages)
            return (StageCost(0.0, cost.vision + behind + adapters),)
        case _:
            assert_never(method)


def _embedding(backbone: Backbone) -> float:
    """Of the patch convolution by its formula; a CNN in its place is counted without values."""
    embed = backbone.clip.visual.conv1
    if isinstance(embed, nn.Conv2d):
        return 2.0 * backbone.grid**2 * 3 * backbone.patch_px**2 * backbone.vision_width
    outlined = copy.deepcopy(embed).to("meta")
    side = backbone.input_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outlined(torch.empty(1, 3, side, side, device="meta"))
    return float(counter.get_total_flops())


def _trained_prompts(shape: Shape, count: float, tokens: int) -> float:
    """Prompts through the text tower and their gradient back to the tokens."""
    return count * (shape.text.forward(tokens) + shape.text.backward(tokens))


def _trained_heads(method: SelfPromptingSection, shape: Shape, heads: float) -> float:
    """Three times all heads but the CNN, which is frozen."""
    cnn = _cnn(method, shape)
    return cnn + 3 * (heads - cnn)


def _fa_prompt_tokens(method: FAPromptConfig) -> int:
    words = WORDS_TOKENS + (method.abnormal_words != "object.")
    return method.normal_tokens + method.abnormal_tokens + words


def _cnn(method: SelfPromptingSection, shape: Shape) -> float:
    """Of the published CNN; another one has another cost."""
    side = method.sp_cnn_size or shape.side
    return RESNET50_FLOPS_224 * (side / 224) ** 2 if method.wants_cnn else 0.0


def _prompt_tokens(method: SelfPromptingSection, shape: Shape) -> float:
    """What self prompting's extra tokens add to the prompted blocks."""
    kinds = 2 if method.sp_tokens == "both" and method.sp_combine == "concat" else 1
    extra = kinds * method.sp_adapters
    if not method.sp or method.sp_placement == "overwrite":
        return 0.0
    last = shape.stages * (4 if method.sp_placement == "keep" else method.sp_stages)
    longer = shape.vision.forward(shape.tokens + extra, max(1, last - 1))
    return longer - shape.vision.forward(shape.tokens, max(1, last - 1))


def _rectification(method: AFRClipConfig, shape: Shape) -> float:
    """CMFR of all four stages, with the text half of its first layer once a category."""
    D = shape.embed
    hidden = D // method.cmfr_hidden_divisor
    area = method.cmfr_kernel**2
    layers = ((D, D), (D * area, hidden), (hidden * area, 2))
    return 4 * shape.per_patch(*layers) if method.cmfr else 0.0


def _windows(method: WinCLIPConfig, shape: Shape) -> float:
    """The vision tower over every window: its patches and a class token."""
    grid = math.isqrt(shape.patches)
    return sum(
        (grid - side + 1) ** 2 * shape.vision.forward(side**2 + 1) for side in method.window_sizes
    )
