from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from object_agnostic import assert_checkpoint_round_trip, batch_of, vit_l14_336
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.backbone_loading import load_backbone
from zsad.build import build_detector
from zsad.config.backbone import BackboneConfig
from zsad.config.cocoop import CoCoOpConfig
from zsad.config.coop import CoOpConfig
from zsad.config.method import MethodConfig
from zsad.methods.cocoop import CoCoOp
from zsad.methods.coop import CoOp

CONFIGS = {"coop": CoOpConfig, "cocoop": CoCoOpConfig}
NAMES = ["metal_nut", "carpet", "metal_nut"]
Make = Callable[..., CoOp | CoCoOp]


@pytest.fixture
def make(make_backbone: Callable[..., Backbone]) -> Make:
    def make(method: str, **options: object) -> CoOp | CoCoOp:
        config: MethodConfig = CONFIGS[method].model_validate(options)
        detector = build_detector(config, make_backbone())
        assert isinstance(detector, CoOp | CoCoOp)
        return detector

    return make


@pytest.mark.parametrize("method", CONFIGS)
def test_mixed_batch_equals_images_scored_alone(make: Make, images: Tensor, method: str) -> None:
    detector = make(method)

    together = detector.predict(images, NAMES)

    for row, name in enumerate(NAMES):
        alone = detector.predict(images[row : row + 1], [name])
        torch.testing.assert_close(
            together.image_score[row], alone.image_score[0], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            together.anomaly_map[row], alone.anomaly_map[0], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("method", CONFIGS)
def test_scores_and_maps_are_probabilities(make: Make, images: Tensor, method: str) -> None:
    found = make(method).predict(20 * images, NAMES)

    assert found.image_score.shape == (3,)
    assert found.anomaly_map.shape == (3, 56, 56)
    for values in (found.image_score, found.anomaly_map):
        assert values.dtype == torch.float32
        assert 0 <= values.min() <= values.max() <= 1


@torch.no_grad()
def test_context_of_word_embeddings_is_plain_clip(make: Make, images: Tensor) -> None:
    detector = make("coop", context_tokens=4)
    assert isinstance(detector, CoOp)
    backbone = detector.backbone
    ids = backbone.tokenizer(["a photo of the"])
    detector.context.copy_(backbone.embed_words(ids)[0, 1:5])

    found = detector.predict(images, NAMES)

    embedded = backbone.embed_images(images)
    tokens = F.normalize(
        backbone.project_vision(backbone.run_vision(embedded, [3]).stages[0]), dim=-1
    )
    for row, name in enumerate(["metal nut", "carpet", "metal nut"]):
        sentences = [f"a photo of the {state} {name}." for state in ("normal", "anomalous")]
        texts = F.normalize(backbone.encode_text(sentences), dim=-1)
        probability = (100 * tokens[row] @ texts.T).softmax(-1)[:, 1]
        grid = probability[1:].reshape(1, 1, 7, 7)
        maps = F.interpolate(grid, size=(56, 56), mode="bilinear")[0, 0]
        torch.testing.assert_close(found.image_score[row], probability[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.anomaly_map[row], maps, atol=1e-4, rtol=0)


@torch.no_grad()
def test_cocoop_without_meta_network_is_coop(make: Make, images: Tensor) -> None:
    coop, cocoop = make("coop"), make("cocoop")
    assert isinstance(cocoop, CoCoOp)
    coop.context.copy_(cocoop.context)
    for parameter in cocoop.meta_network[2].parameters():
        parameter.zero_()

    found = cocoop.predict(images, NAMES)

    wanted = coop.predict(images, NAMES)
    torch.testing.assert_close(found.image_score, wanted.image_score, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.anomaly_map, wanted.anomaly_map, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", CONFIGS)
def test_losses_fall_and_reach_exactly_the_listed_parameters(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, method: str
) -> None:
    detector = make(method)
    detector.predict(images, NAMES)  # anchors cached in inference mode must not hurt training
    batch = batch_of(detector.backbone, images, masks, labels, NAMES)
    (stage,) = detector.stages()
    optimizer = torch.optim.Adam(stage.parameters, lr=2e-3, betas=stage.betas)

    history = []
    for _ in range(12):
        optimizer.zero_grad()
        found = stage.losses(batch)
        found.total.backward()
        optimizer.step()
        history.append(found.total.item())

    assert history[-1] < 0.9 * history[0]
    touched = {id(p) for p in detector.parameters() if p.grad is not None and p.grad.any()}
    assert touched == {id(parameter) for parameter in stage.parameters}
    listed = {name for name, p in detector.named_parameters() if id(p) in touched}
    assert listed == set(detector.trainable_state_dict())


def test_cached_anchors_follow_training(make: Make) -> None:
    detector = make("coop")
    assert isinstance(detector, CoOp)
    before = detector.anchors(["screw"])

    with torch.no_grad():
        detector.context.add_(0.5)

    assert not torch.equal(detector.anchors(["screw"]), before)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize(
    ("option", "value"),
    [("context_tokens", 4), ("temperature", 0.07), ("spell_out_names", False)],
)
def test_every_option_has_an_effect(
    make: Make, images: Tensor, method: str, option: str, value: object
) -> None:
    detectors = make(method), make(method, **{option: value})

    one, other = (detector.predict(images, NAMES).image_score for detector in detectors)

    assert not torch.equal(one, other)


@pytest.mark.parametrize("method", CONFIGS)
def test_checkpoint_gives_the_same_scores(
    make: Make, images: Tensor, tmp_path: Path, method: str
) -> None:
    assert_checkpoint_round_trip(make(method), images, NAMES, tmp_path)


@pytest.mark.parametrize(("method", "count"), [("coop", 9_216), ("cocoop", 83_760)])
def test_parameter_count_on_vit_l_14_336_is_the_published_one(method: str, count: int) -> None:
    backbone = vit_l14_336()
    with torch.device("meta"):
        detector = build_detector(CONFIGS[method](), backbone)

    assert sum(tensor.numel() for tensor in detector.trainable_state_dict().values()) == count


@pytest.mark.parametrize("method", CONFIGS)
def test_runs_on_the_compact_backbone(method: str) -> None:
    backbone = load_backbone(BackboneConfig(name="compact-v1"))

    found = build_detector(CONFIGS[method](), backbone).predict(
        torch.zeros(1, 3, 320, 320), ["screw"]
    )

    assert found.anomaly_map.shape == (1, 320, 320)
