"""How the backbone's blocks run changes speed and memory, not what they compute."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.config.aa_clip import AAClipConfig
from zsad.config.ada_clip import AdaCLIPConfig
from zsad.config.afr_clip import AFRClipConfig
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.config.april_gan import AprilGANConfig
from zsad.config.cocoop import CoCoOpConfig
from zsad.config.coop import CoOpConfig
from zsad.config.fa_prompt import FAPromptConfig
from zsad.config.method import MethodConfig
from zsad.config.mfp_clip import MFPClipConfig
from zsad.detector import TrainableDetector

NAMES = ["metal nut", "wood", "metal nut"]
METHODS: dict[str, MethodConfig] = {
    "aa_clip": AAClipConfig(),
    "ada_clip": AdaCLIPConfig(),
    "afr_clip": AFRClipConfig(),
    "mfp_clip": MFPClipConfig(),
    "fa_prompt": FAPromptConfig(patches=4),
}


@pytest.fixture
def gradients(backbone: Backbone) -> Callable[..., tuple[float, dict[str, torch.Tensor]]]:
    """Of (method, how the blocks run): loss of the last stage and every gradient."""

    def compute(method: str, **how: object) -> tuple[float, dict[str, torch.Tensor]]:
        detector = build_detector(METHODS[method], backbone, seed=3)
        assert isinstance(detector, TrainableDetector)
        generator = torch.Generator().manual_seed(5)
        images = torch.randn(3, 3, 56, 56, generator=generator)
        masks = torch.zeros(3, 56, 56)
        masks[0, 10:30, 20:40] = 1
        labels = torch.tensor([1, 0, 0])
        with backbone.executing(**how):
            batch = detector.training_batch(images, masks, labels, NAMES)
            losses = detector.stages()[-1].losses(batch)
            losses.total.backward()
        found = {n: p.grad for n, p in detector.own_parameters().items() if p.grad is not None}
        return losses.total.item(), found

    return compute


@pytest.mark.parametrize("method", METHODS)
def test_recomputed_blocks_give_the_same_gradients(method: str, gradients) -> None:
    plain_loss, plain = gradients(method)

    loss, found = gradients(method, checkpointing=True)

    assert loss == plain_loss
    assert found.keys() == plain.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, plain[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_blocks_give_nearly_the_same_loss_and_gradients(method: str, gradients) -> None:
    plain_loss, plain = gradients(method)

    loss, found = gradients(method, half=torch.bfloat16)

    assert loss != plain_loss
    assert loss == pytest.approx(plain_loss, rel=0.05)
    whole, other = (torch.cat([g.flatten() for g in all_.values()]) for all_ in (plain, found))
    assert torch.cosine_similarity(whole, other, dim=0) > 0.9
    assert all(gradient.dtype == torch.float32 for gradient in found.values())


def test_the_residual_stream_and_what_is_read_of_it_stay_float32(backbone: Backbone) -> None:
    images = torch.randn(1, 3, 56, 56)
    with backbone.executing(half=torch.bfloat16), torch.no_grad():
        embedded = backbone.embed_images(images)
        tokens = backbone.run_vision(embedded, backbone.stage_blocks)
        dual = backbone.run_dual_stream(embedded, backbone.stage_blocks)
        text = backbone.encode_text(["a photo"])

    found = [*tokens.stages, tokens.class_token, *dual.stages, dual.class_token, text]
    assert {tensor.dtype for tensor in found} == {torch.float32}


def test_recomputing_keeps_less_for_the_backward_pass(backbone: Backbone) -> None:
    embedded = backbone.embed_images(torch.randn(2, 3, 56, 56)).requires_grad_(True)

    def kept_bytes(**how: object) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with backbone.executing(**how), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            backbone.run_vision(embedded, ())
        return sum(kept.values())

    assert kept_bytes(checkpointing=True) < 0.2 * kept_bytes()


def test_the_backbone_runs_as_before_after_an_error(backbone: Backbone) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        backbone.executing(half=torch.bfloat16, checkpointing=True),
    ):
        raise ZeroDivisionError

    assert backbone.half_type is None


@pytest.mark.parametrize("method", ["aa_clip", "afr_clip"])
def test_anchors_that_are_kept_are_float32_products_while_training_is_not(
    method: str, backbone: Backbone
) -> None:
    def detector_after_training(half: torch.dtype | None) -> torch.Tensor:
        detector = build_detector(METHODS[method], backbone, seed=3)
        assert isinstance(detector, TrainableDetector)
        images = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
        masks, labels = torch.zeros(1, 56, 56), torch.tensor([0])
        with backbone.executing(half=half):
            batch = detector.training_batch(images, masks, labels, NAMES[:1])
            detector.stages()[-1].losses(batch)
        return detector.predict(images, NAMES[:1]).anomaly_map

    assert torch.equal(detector_after_training(torch.bfloat16), detector_after_training(None))


@pytest.mark.parametrize(
    "method",
    [
        AAClipConfig(),
        AdaCLIPConfig(),
        AnomalyCLIPConfig(levels="all"),
        AprilGANConfig(),
        CoCoOpConfig(),
        CoOpConfig(),
        FAPromptConfig(patches=4),
    ],
    ids=lambda config: config.method,
)
def test_losses_of_frozen_constants_alone_are_those_of_the_images(
    method: MethodConfig, backbone: Backbone
) -> None:
    detector = build_detector(method, backbone, seed=3)
    assert isinstance(detector, TrainableDetector)
    stage = detector.stages()[0]
    assert stage.frozen is not None
    images = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    batch = detector.training_batch(images, torch.zeros(3, 56, 56), torch.tensor([0, 1, 0]), NAMES)
    rows = [stage.frozen(batch.embedded[at : at + 1]) for at in range(3)]
    constants = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    nothing = torch.empty(0)

    found = stage.losses(replace(batch, images=nothing, embedded=nothing, frozen=constants))

    assert all(len(tensor) == 3 and not tensor.requires_grad for tensor in constants)
    torch.testing.assert_close(found.total, stage.losses(batch).total, atol=1e-4, rtol=1e-4)


def test_features_over_the_batch_axis_are_no_constants(backbone: Backbone) -> None:
    detector = build_detector(AAClipConfig(preset="official"), backbone)

    assert isinstance(detector, TrainableDetector)
    assert detector.stages()[0].frozen is None
