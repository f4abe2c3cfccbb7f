"""The cost formulas, against totals worked out by hand and against operations that torch counts."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from zsad.backbone import Backbone, BackboneError
from zsad.config.backbone import BackboneConfig
from zsad.cost import ImageCost, Shape, StageCost, image_cost, shape_of, training_costs
from zsad.detector import TrainableDetector
from zsad.outline import outline_backbone, outline_detector
from zsad.published.recipe import RECIPES

GIGA = 1e9
TOTALS = {
    "april_gan": 1022,
    "anomaly_clip": 1214,
    "fa_prompt": 1235,
    "afr_clip": 1081,
    "mfp_clip": 2120,
    "aa_clip": 1042,
    "winclip": 673,
    "clip": 1014,
}
"""GFLOP an image of the published configurations, text of a category cached."""


@pytest.fixture(scope="module")
def outlined() -> Callable[[BackboneConfig], Backbone]:
    made: dict[BackboneConfig, Backbone] = {}

    def outline(config: BackboneConfig) -> Backbone:
        return made.setdefault(config, outline_backbone(config))

    return outline


@pytest.fixture(scope="module")
def large(outlined: Callable[[BackboneConfig], Backbone]) -> Backbone:
    """ViT-L/14@336 at 518 px."""
    return outlined(RECIPES["afr_clip"].backbone)


@pytest.mark.parametrize(("name", "giga"), TOTALS.items())
def test_cost_of_an_image_is_that_of_the_table(
    name: str, giga: float, outlined: Callable[[BackboneConfig], Backbone]
) -> None:
    recipe = RECIPES[name]

    cost = image_cost(recipe.config(None), shape_of(outlined(recipe.backbone)))

    assert cost.total / GIGA == pytest.approx(giga, rel=0.01)


def test_building_blocks_are_those_of_the_table(large: Backbone) -> None:
    shape = shape_of(large)

    assert shape.vision.forward(shape.tokens, 1) / GIGA == pytest.approx(42.2, abs=0.05)
    assert shape.visual_pass / GIGA == pytest.approx(1013.6, abs=0.1)
    assert shape.vv_streams(19) / GIGA == pytest.approx(200.7, abs=0.1)
    assert [round(shape.prompts(1, n) / GIGA, 2) for n in (77, 12)] == [13.3, 2.04]


def counted(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def blocks_of(backbone: Backbone, tokens: torch.Tensor) -> torch.Tensor:
    """open_clip's own blocks, one after another."""
    for block in backbone.clip.visual.transformer.resblocks:
        tokens = block(tokens)
    return tokens


def test_vision_pass_is_what_torch_counts(large: Backbone) -> None:
    shape = shape_of(large)
    images = torch.empty(1, 3, 518, 518, device="meta")
    tokens = torch.empty(1, shape.tokens, 1024, device="meta")

    flops = counted(lambda: (large.clip.visual.conv1(images), blocks_of(large, tokens)))

    assert shape.visual_pass == pytest.approx(flops, rel=0.001)


def test_gradient_to_the_input_of_frozen_blocks_is_what_torch_counts(large: Backbone) -> None:
    shape = shape_of(large)
    tokens = torch.empty(1, shape.tokens, 1024, device="meta", requires_grad=True)
    output = blocks_of(large, tokens)

    flops = counted(lambda: output.sum().backward())  # type: ignore[no-untyped-call]

    assert shape.vision.backward(shape.tokens) == pytest.approx(flops, rel=0.001)


@pytest.mark.parametrize("name", [name for name, r in RECIPES.items() if r.trained_on])
def test_every_stage_of_every_trained_method_has_a_cost(
    name: str, outlined: Callable[[BackboneConfig], Backbone]
) -> None:
    recipe = RECIPES[name]
    config, backbone = recipe.config(None), outlined(recipe.backbone)
    detector = outline_detector(config, backbone)
    assert isinstance(detector, TrainableDetector)
    stages = detector.stages()
    shape = shape_of(backbone)

    costs = training_costs(config, shape, tuple(stage.batch_size for stage in stages))

    assert len(costs) == len(stages)
    for cost in costs:
        assert shape.visual_pass <= cost.frozen + cost.trained < 6 * shape.visual_pass


def test_backward_passes_through_the_vision_tower_only_where_it_trains_something(
    large: Backbone,
) -> None:
    shape = shape_of(large)

    def once(name: str, **options: bool) -> float:
        (cost,) = training_costs(RECIPES[name].config(None, **options), shape, (4,))
        return cost.frozen + cost.trained

    forward = {name: image_cost(RECIPES[name].config(None), shape).total for name in TOTALS}
    assert once("april_gan") < 1.1 * forward["april_gan"]
    assert once("afr_clip") > 2 * forward["afr_clip"]
    assert once("afr_clip", sp=False) < 1.1 * forward["afr_clip"]
    assert once("mfp_clip") > 2 * forward["mfp_clip"]


def test_kept_constants_cost_one_epoch(large: Backbone) -> None:
    detector = outline_detector(RECIPES["anomaly_clip"].config(None), large)
    assert isinstance(detector, TrainableDetector)
    (stage,) = detector.stages()
    assert stage.frozen is not None

    assert StageCost(frozen=100.0, trained=1.0).of(stage) == 100 + stage.epochs


def test_cost_grows_with_the_image() -> None:
    config = BackboneConfig(name="ViT-L-14-336-quickgelu", image_size=336)
    method = RECIPES["april_gan"].config(None)

    small = image_cost(method, shape_of(outline_backbone(config)))
    assert small.total / GIGA == pytest.approx(385, rel=0.02)
    assert ImageCost(1.0, 2.0, 3.0).total == 6


def test_parameters_of_the_outline_are_the_network_s(large: Backbone) -> None:
    n_parameters = sum(parameter.numel() for parameter in large.clip.parameters())

    assert n_parameters == 427_944_193 - 304_293_888 + 305_105_920  # positions at 37 x 37
    assert all(parameter.is_meta for parameter in large.parameters())
    assert isinstance(shape_of(large), Shape)


def test_unknown_shape_is_one_sentence() -> None:
    with pytest.raises(BackboneError, match="open_clip knows no model ViT-X-99"):
        outline_backbone(BackboneConfig(name="ViT-X-99"))
    with pytest.raises(BackboneError, match="is not an open_clip configuration"):
        outline_backbone(BackboneConfig(name="local-dir:/nowhere"))
