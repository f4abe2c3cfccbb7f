"""What every baseline promises, on a tiny random backbone."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP
from pydantic import TypeAdapter
from torch import Tensor

from zsad.backbone import Backbone
from zsad.backbone_loading import load_backbone
from zsad.build import build_detector
from zsad.checkpoint import load_detector, new_card, save_checkpoint
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.detector import Detector, TrainableDetector, TrainingBatch

NAMES = ["metal_nut", "woven fabric", "metal_nut"]
UNTRAINED = [
    {"method": "clip_zero_shot"},
    {"method": "clip_zero_shot", "prompts": "clip_ac", "temperature": 0.07},
    {"method": "winclip"},
    {"method": "winclip", "preset": "official"},
    {"method": "anovl"},
    {"method": "anovl", "preset": "official", "views": "one", "adaptation_steps": 0},
]
TRAINED = [
    {"method": "april_gan"},
    {"method": "april_gan", "preset": "official"},
    {"method": "ada_clip"},
    {"method": "ada_clip", "preset": "official"},
    {"method": "ada_clip", "prompts": "static", "prompted": "vision"},
    {"method": "ada_clip", "prompts": "dynamic", "prompted": "text"},
    {"method": "ada_clip", "hybrid_fusion": False},
    {"method": "mvfa_ad"},
    {"method": "mvfa_ad", "preset": "official"},
]
COUNTS = {"april_gan": 3_148_800, "ada_clip": 10_665_472, "mvfa_ad": 12_582_912}
"""Trainable parameters on ViT-L/14@336 as published."""


def build(options: dict[str, object], backbone: Backbone) -> Detector:
    config: MethodConfig = TypeAdapter(MethodConfig).validate_python(options)
    return build_detector(config, backbone)


def trainable(options: dict[str, object], backbone: Backbone) -> TrainableDetector:
    detector = build(options, backbone)
    assert isinstance(detector, TrainableDetector)
    return detector


@pytest.fixture
def batch(backbone: Backbone, images: Tensor, masks: Tensor, labels: Tensor) -> TrainingBatch:
    with torch.no_grad():
        embedded = backbone.embed_images(images)
    return TrainingBatch(images, embedded, masks, labels, NAMES)


@pytest.mark.parametrize("options", UNTRAINED + TRAINED, ids=str)
def test_mixed_batch_equals_images_scored_alone(
    backbone: Backbone, images: Tensor, options: dict[str, object]
) -> None:
    detector = build(options, backbone)

    together = detector.predict(images, NAMES)

    for row, name in enumerate(NAMES):
        alone = detector.predict(images[row : row + 1], [name])
        torch.testing.assert_close(
            together.image_score[row], alone.image_score[0], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            together.anomaly_map[row], alone.anomaly_map[0], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("options", UNTRAINED + TRAINED, ids=str)
def test_scores_and_maps_are_probabilities(
    backbone: Backbone, images: Tensor, options: dict[str, object]
) -> None:
    found = build(options, backbone).predict(20 * images, NAMES)

    assert found.image_score.shape == (3,)
    assert found.anomaly_map.shape == (3, 56, 56)
    for values in (found.image_score, found.anomaly_map):
        assert values.dtype == torch.float32
        assert 0 <= values.min() <= values.max() <= 1


@pytest.mark.parametrize("options", TRAINED, ids=str)
def test_gradients_reach_only_listed_parameters_and_the_loss_falls(
    backbone: Backbone, batch: TrainingBatch, options: dict[str, object]
) -> None:
    detector = trainable(options, backbone)
    detector.predict(batch.images, NAMES)  # what inference mode cached must not hurt training
    (stage,) = detector.stages()
    optimizer = torch.optim.Adam(stage.parameters, lr=3e-3, betas=stage.betas)

    history = []
    for _ in range(12):
        found = stage.losses(batch)
        torch.testing.assert_close(found.total, torch.stack(list(found.terms.values())).sum())
        history.append(found.total.item())
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()

    touched = {id(p) for p in detector.parameters() if p.grad is not None}
    assert touched
    assert touched <= {id(parameter) for parameter in stage.parameters}
    assert history[-1] < 0.95 * history[0]


def test_only_what_no_score_reads_stays_without_gradient(
    backbone: Backbone, batch: TrainingBatch
) -> None:
    idle = {}
    for method in COUNTS:
        detector = trainable({"method": method}, backbone)
        detector.stages()[0].losses(batch).total.backward()
        idle[method] = {
            name
            for name, parameter in detector.named_parameters()
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
        }

    assert idle == {
        "april_gan": set(),
        "ada_clip": {"text_prompts.static.0"},
        "mvfa_ad": {"seg.3.up.weight", "det.3.up.weight"},
    }


@pytest.mark.parametrize("method", COUNTS)
def test_parameter_count_on_vit_l_14_336_is_the_published_one(method: str) -> None:
    config = BackboneConfig(name="x", image_size=98)
    with torch.device("meta"):
        clip = CLIP(**open_clip.get_model_config("ViT-L-14-336"))
        tokenizer = open_clip.tokenizer.SimpleTokenizer()
        backbone = Backbone(clip, config, (0, 0, 0), (1, 1, 1), tokenizer)
        detector = build({"method": method}, backbone)

    assert sum(p.numel() for p in detector.trainable_state_dict().values()) == COUNTS[method]


@pytest.mark.parametrize("method", ["clip_zero_shot", "winclip", "anovl", *COUNTS])
def test_a_saved_detector_comes_back_the_same(
    tmp_path: Path,
    tiny_config: dict[str, object],
    tiny_state: dict[str, Tensor],
    images: Tensor,
    method: str,
) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_config}))
    safetensors.torch.save_file(tiny_state, tmp_path / "open_clip_model.safetensors")
    backbone = load_backbone(BackboneConfig(name=f"local-dir:{tmp_path}"))
    detector = build({"method": method}, backbone)
    with torch.no_grad():
        for parameter in detector.trainable_state_dict().values():
            parameter.add_(0.01)
    card = new_card(
        detector,
        data=(),
        metrics={},
        seed=0,
        git_revision=None,
        created=datetime(2026, 1, 31, tzinfo=UTC),
        training_command="zsad train",
    )

    save_checkpoint(tmp_path / "saved", detector, card)
    loaded = load_detector(tmp_path / "saved", backbone=backbone)

    before, after = detector.predict(images, NAMES), loaded.detector.predict(images, NAMES)
    assert torch.equal(before.image_score, after.image_score)
    assert torch.equal(before.anomaly_map, after.anomaly_map)
    assert loaded.version.startswith(f"{method}-")


@pytest.mark.parametrize("options", UNTRAINED + TRAINED[::2], ids=str)
def test_images_that_do_not_fit_are_refused(
    backbone: Backbone, images: Tensor, options: dict[str, object]
) -> None:
    detector = build(options, backbone)

    with pytest.raises(ValueError, match="3 images but 2 class names"):
        detector.predict(images, NAMES[:2])
    with pytest.raises(ValueError, match=r"images must be \[B, 3, 56, 56\]"):
        detector.predict(images[:, :, :48], NAMES)


@pytest.mark.parametrize("method", ["april_gan", "mvfa_ad", "winclip"])
def test_official_preset_keeps_the_underscore_of_a_name(
    make_backbone: Callable[..., Backbone], images: Tensor, method: str
) -> None:
    words, given = ["metal nut"] * 3, ["metal_nut"] * 3
    scores = {}
    for preset in ("paper", "official"):
        detector = build({"method": method, "preset": preset}, make_backbone())
        scores[preset] = [detector.predict(images, n).anomaly_map for n in (words, given)]

    assert torch.equal(*scores["paper"])
    assert not torch.equal(*scores["official"])


@pytest.mark.parametrize("method", ["april_gan", "mvfa_ad", "winclip"])
def test_a_hyphen_in_a_name_stays(
    make_backbone: Callable[..., Backbone], images: Tensor, method: str
) -> None:
    detector = build({"method": method}, make_backbone())

    maps = [
        detector.predict(images[:1], [name]).anomaly_map
        for name in ("pipe-shaped fryum", "pipe shaped fryum")
    ]

    assert not torch.equal(*maps)
