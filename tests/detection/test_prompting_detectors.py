"""What AFR-CLIP and MFP-CLIP, which share self prompting and aggregation, have in common."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import timm
import torch
from one_stage import losses_of
from open_clip.model import CLIP
from torch import Tensor, nn

from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.checkpoint import CheckpointError, load_detector, new_card, save_checkpoint
from zsad.config.afr_clip import AFRClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.config.mfp_clip import MFPClipConfig
from zsad.detector import TrainingBatch
from zsad.frozen_cnn import FrozenCnn
from zsad.methods.afr_clip import AFRClip
from zsad.methods.mfp_clip import MFPClip
from zsad.scoring import map_matrix, upsample

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NAMES = ["metal nut", "woven fabric", "metal nut"]
METHODS = ("afr_clip", "mfp_clip")
Method = AFRClip | MFPClip
Make = Callable[..., Method]
SHARED_OPTIONS: list[dict[str, Any]] = [
    {"sp": False},
    {"sp_adapters": 2},
    {"sp_tokens": "image"},
    {"sp_tokens": "unified"},
    {"sp_combine": "sum"},
    {"sp_placement": "keep"},
    {"sp_placement": "overwrite"},
    {"sp_stages": 2},
    {"mpfa": False},
    {"mpfa_window": 5},
    {"temperature": 0.07},
    {"align_corners": True},
    {"dice": "both"},
]
AFR_OPTIONS: list[dict[str, Any]] = [
    {"cmfr": False},
    {"abnormal_word": "abnormal"},
    {"normalise": False},
    {"cmfr_kernel": 3},
    {"cmfr_hidden_divisor": 4},
    {"cmfr_order": "linear_last"},
    {"text_weight": "residual"},
    {"image_score": "patch_mean"},
    {"image_score": "map_max"},
    {"image_score": "mean"},
    {"stage_adapter": "two_layer"},
    {"stage_adapter": "ln_post_linear"},
    {"loss_on": "stages"},
    {"text_adapter_init": "default"},
    {"cmfr_shared": True},
]
MFP_OPTIONS: list[dict[str, Any]] = [
    {"article": "a"},
    {"i2tp_axis": "extra_token"},
    {"adapter_layers": 1},
    {"adapter_activation": "relu"},
    {"adapter_activation": "gelu"},
    {"adapter_final_activation": False},
    {"supervision": "refined"},
]
MERGE_OPTIONS: list[dict[str, Any]] = [
    {"mp": False},
    {"i2tp": False},
    {"i2tp_projection": "mlp"},
    {"i2tp_axis": "token_axis"},
    {"mask_space": "rgb"},
    {"mask_range": "min_max"},
    {"mp_tokens": "all"},
    {"mp_place": "after_ln_pre"},
]
"""Options that show only once the projections have left [I | 0]."""
CASES = [
    *((method, option) for method in METHODS for option in SHARED_OPTIONS),
    *(("afr_clip", option) for option in AFR_OPTIONS),
    *(("mfp_clip", option) for option in MFP_OPTIONS + MERGE_OPTIONS),
]


def config_of(method: str, options: dict[str, Any]) -> AFRClipConfig | MFPClipConfig:
    kind = AFRClipConfig if method == "afr_clip" else MFPClipConfig
    return kind.model_validate(options)


@pytest.fixture(scope="module")
def frozen(tiny_config: dict[str, Any], tiny_state: dict[str, Tensor]) -> Backbone:
    """One backbone for all: nothing here changes it."""
    clip = CLIP(**tiny_config)
    clip.load_state_dict(tiny_state)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    return Backbone(clip, BackboneConfig(name="tiny-random"), MEAN, STD, tokenizer)


@pytest.fixture
def make(frozen: Backbone) -> Make:
    def build(method: str, **options: Any) -> Method:
        detector = build_detector(config_of(method, options), frozen)
        assert isinstance(detector, AFRClip | MFPClip)
        return detector

    return build


def leave_identity(detector: Method) -> None:
    """Move every weight off its start, by a draw that depends on its name and shape alone."""
    with torch.no_grad():
        for parameter in detector.own_parameters().values():
            generator = torch.Generator().manual_seed(parameter.numel())
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("method", METHODS)
def test_mixed_batch_equals_images_scored_alone(make: Make, images: Tensor, method: str) -> None:
    detector = make(method)
    leave_identity(detector)

    together = detector.predict(images, NAMES)

    for row, name in enumerate(NAMES):
        alone = detector.predict(images[row : row + 1], [name])
        torch.testing.assert_close(
            together.image_score[row], alone.image_score[0], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            together.anomaly_map[row], alone.anomaly_map[0], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(("method", "option"), CASES)
def test_every_option_predicts_probabilities_and_trains(
    make: Make,
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    method: str,
    option: dict[str, Any],
) -> None:
    detector = make(method, **option)

    found = detector.predict(20 * images, NAMES)
    losses = losses_of(detector, images, masks, labels, NAMES)

    assert found.image_score.shape == (3,)
    assert found.anomaly_map.shape == (3, 56, 56)
    for values in (found.image_score, found.anomaly_map):
        assert values.dtype == torch.float32
        assert 0 <= values.min() <= values.max() <= 1
    torch.testing.assert_close(losses.total, torch.stack(list(losses.terms.values())).sum())
    assert torch.isfinite(losses.total)


@pytest.mark.parametrize(("method", "option"), CASES)
def test_every_option_has_an_effect(
    make: Make,
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    method: str,
    option: dict[str, Any],
) -> None:
    totals = []
    for detector in (make(method), make(method, **option)):
        leave_identity(detector)
        with torch.no_grad():
            totals.append(losses_of(detector, images, masks, labels, NAMES).total.item())

    assert totals[0] != pytest.approx(totals[1], rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_exactly_the_listed_parameters(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, method: str
) -> None:
    detector = make(method, temperature=1.0)  # 0.01 saturates a random network
    leave_identity(detector)
    detector.predict(images, NAMES)  # texts cached in inference mode must not hurt training

    losses_of(detector, images, masks, labels, NAMES).total.backward()

    touched = {id(p) for p in detector.parameters() if p.grad is not None and p.grad.any()}
    (stage,) = detector.stages()
    assert touched == {id(parameter) for parameter in stage.parameters}
    own = [n for n, _ in detector.named_parameters() if not n.startswith("backbone.")]
    assert list(detector.trainable_state_dict()) == own
    assert len(stage.parameters) == len(own)


@pytest.mark.parametrize("method", METHODS)
def test_a_few_steps_lower_the_loss(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, method: str
) -> None:
    detector = make(method)
    (stage,) = detector.stages()
    optimizer = torch.optim.Adam(stage.parameters, lr=1e-3, betas=stage.betas)

    history = []
    for _ in range(25):
        found = losses_of(detector, images, masks, labels, NAMES)
        history.append(found.total.item())
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()

    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize(("method", "batch_size"), [("afr_clip", 4), ("mfp_clip", 1)])
def test_schedule_is_the_published_one(make: Make, method: str, batch_size: int) -> None:
    (stage,) = make(method).stages()

    assert (stage.epochs, stage.batch_size, stage.rate_per) == (100, batch_size, "epoch")
    assert [stage.learning_rate(epoch) for epoch in (0, 1, 9)] == [1e-3, 5e-4, 1e-4]


@pytest.mark.parametrize("method", METHODS)
def test_a_window_of_one_equals_the_model_without_aggregation(
    make: Make, images: Tensor, method: str
) -> None:
    one, without = make(method, mpfa_window=1), make(method, mpfa=False)

    torch.testing.assert_close(
        one.predict(images, NAMES).anomaly_map, without.predict(images, NAMES).anomaly_map
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_averaging_stages_before_upsampling_equals_averaging_maps(
    make: Make, images: Tensor, method: str, align_corners: bool
) -> None:
    detector = make(method, align_corners=align_corners)
    raw = detector.raw_outputs(images, NAMES)
    found = getattr(raw, "refined", raw)

    maps = torch.nn.functional.interpolate(
        found.stage_grids, size=(56, 56), mode="bilinear", align_corners=align_corners
    )

    torch.testing.assert_close(found.fused_map, maps.mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_smoothing_changes_the_map_and_not_what_training_sees(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, method: str
) -> None:
    plain, smooth = make(method), make(method, smoothing_px=4.0)

    raw = plain.raw_outputs(images, NAMES)
    grids = getattr(raw, "refined", raw).stage_grids.mean(0)
    matrix = map_matrix(7, 56, align_corners=False, sigma_px=4.0)
    found, before = smooth.predict(images, NAMES), plain.predict(images, NAMES)
    torch.testing.assert_close(found.anomaly_map, upsample(grids, matrix).clamp(0, 1))
    assert torch.equal(found.image_score, before.image_score)
    totals = [losses_of(d, images, masks, labels, NAMES).total for d in (plain, smooth)]
    assert torch.equal(totals[0], totals[1])


@pytest.mark.parametrize("method", METHODS)
def test_names_are_read_as_words_and_a_blank_one_as_object(
    make: Make, images: Tensor, method: str
) -> None:
    detector = make(method)
    same = images[:1].expand(4, -1, -1, -1)

    found = detector.predict(same, ["metal_nut", "metal nut", " ", "object"]).anomaly_map

    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])
    assert not torch.allclose(found[0], found[2])


@pytest.mark.parametrize("method", METHODS)
def test_cached_patch_embeddings_give_the_losses_of_images(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, method: str
) -> None:
    detector = make(method)
    (stage,) = detector.stages()
    embedded = detector.backbone.embed_images(images)

    found = stage.losses(TrainingBatch(images, embedded, masks, labels, NAMES))

    assert torch.equal(found.total, losses_of(detector, images, masks, labels, NAMES).total)


@pytest.mark.parametrize("method", METHODS)
def test_misfits_are_refused(make: Make, images: Tensor, method: str) -> None:
    detector = make(method)

    with pytest.raises(ValueError, match="3 images but 2 class names"):
        detector.predict(images, NAMES[:2])
    with pytest.raises(ValueError, match=r"images must be \[B, 3, 56, 56\]"):
        detector.predict(images[:, :, :48], NAMES)
    with pytest.raises(ValueError, match="a CNN was given"):
        type(detector)(detector.backbone, detector.config, nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mpfa_window is 2; it must be odd"):
        config_of(method, {"mpfa_window": 2})


@pytest.fixture
def cnn_weights(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = timm.create_model("test_resnet", pretrained=False)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "cnn.safetensors")
    return tmp_path / "cnn.safetensors"


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_brings_the_detector_back_and_pins_its_cnn(
    make: Make, images: Tensor, method: str, cnn_weights: Path, tmp_path: Path
) -> None:
    detector = make(method, sp_cnn="test_resnet", sp_cnn_weights=str(cnn_weights))
    leave_identity(detector)
    card = new_card(
        detector,
        data=(),
        metrics={},
        seed=0,
        git_revision=None,
        created=datetime(2026, 1, 31, tzinfo=UTC),
        training_command="zsad train",
    )

    version = save_checkpoint(tmp_path / "v1", detector, card)
    loaded = load_detector(tmp_path / "v1", backbone=detector.backbone)

    assert version == loaded.version
    before, after = detector.predict(images, NAMES), loaded.detector.predict(images, NAMES)
    assert torch.equal(before.image_score, after.image_score)
    assert torch.equal(before.anomaly_map, after.anomaly_map)
    state = safetensors.torch.load_file(cnn_weights)
    next(iter(state.values())).add_(1)
    safetensors.torch.save_file(state, cnn_weights)
    with pytest.raises(CheckpointError, match="the detector was trained with"):
        load_detector(tmp_path / "v1", backbone=detector.backbone)


@pytest.mark.parametrize("method", METHODS)
def test_without_prompting_the_cnn_is_not_read(make: Make, images: Tensor, method: str) -> None:
    options = {"sp": False} if method == "afr_clip" else {"sp": False, "i2tp": False}

    detector = make(method, sp_features="cnn", **options)

    assert detector.cnn is None
    detector.predict(images, NAMES)


@pytest.mark.parametrize(("method", "count"), [("afr_clip", 21_916_168), ("mfp_clip", 20_859_392)])
def test_parameter_count_on_vit_l_14_336_is_the_specified_one(method: str, count: int) -> None:
    options = {"sp_cnn_weights": "resnet50.safetensors"}
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    with torch.device("meta"):
        clip = CLIP(**open_clip.get_model_config("ViT-L-14-336"))
        backbone = Backbone(
            clip, BackboneConfig(name="x", image_size=518), (0, 0, 0), (1, 1, 1), tokenizer
        )
        cnn = FrozenCnn(
            timm.create_model("resnet50", pretrained=False, num_classes=0),
            level="last",
            size=None,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            sha256="0" * 64,
        )
        kind: Any = AFRClip if method == "afr_clip" else MFPClip
        detector = kind(backbone, config_of(method, options), cnn)

    assert cnn.width == 2048
    assert sum(p.numel() for p in detector.trainable_state_dict().values()) == count
    assert sum(p.numel() for p in detector.own_parameters().values()) == count


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_gives_the_same_detector(frozen: Backbone, method: str) -> None:
    kind: Any = AFRClip if method == "afr_clip" else MFPClip
    one, same, other = (
        kind(frozen, config_of(method, {}), seed=seed).trainable_state_dict() for seed in (1, 1, 2)
    )

    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
