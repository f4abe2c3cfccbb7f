import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.anovl import AnoVLConfig
from zsad.image_views import image_views
from zsad.methods.anovl import AdapterText, AnoVL, adaptation_losses
from zsad.prompts import anovl_ensemble

NAMES = ["screw", "wood", "screw"]


def text_of(detector: AnoVL) -> AdapterText:
    sentences = torch.stack([detector.anchors.rows(name) for name in NAMES])
    return AdapterText(detector.anchors.unit(NAMES), F.normalize(sentences, dim=-1))


def test_there_are_22_different_views_and_the_first_is_the_image(images: Tensor) -> None:
    views = list(image_views(images))

    assert len(views) == 22
    assert torch.equal(views[0], images)
    assert len({view.sum().item() for view in views[1:18]}) == 17
    assert all(view.shape == images.shape for view in views)


def test_quarter_turns_undo_each_other(images: Tensor) -> None:
    views = list(image_views(images))

    assert torch.equal(views[-3].rot90(3, (-2, -1)), images)


@pytest.mark.parametrize("texture", [True, False])
def test_ensemble_has_seven_states_in_sixty_six_templates(texture: bool) -> None:
    ensemble = anovl_ensemble(texture=texture)

    normal, abnormal = ensemble.sentences("wood")

    assert len(set(ensemble.templates)) == 66
    assert (len(set(normal)), len(set(abnormal))) == (462, 462)
    assert "an industrial photo of the normal wood" in normal
    assert ("a dark surface picture of a wood with flaw" in abnormal) is texture


def test_adaptation_lowers_its_loss(backbone: Backbone, images: Tensor) -> None:
    losses = []
    for steps in (1, 20):
        detector = AnoVL(backbone, AnoVLConfig(adaptation_steps=steps, learning_rate=1e-2))
        text = text_of(detector)
        with torch.no_grad():
            patches = detector.patch_features(images)
            adapted = detector.adapted_patches(patches, text)
        losses.append(adaptation_losses(adapted, patches, text.anchors).sum().item())

    assert losses[1] < losses[0]


def test_an_image_adapts_the_same_whatever_came_before(backbone: Backbone, images: Tensor) -> None:
    detector = AnoVL(backbone, AnoVLConfig(views="one"))

    first = detector.predict(images[:1], NAMES[:1])
    detector.predict(images[1:], NAMES[1:])

    again = detector.predict(images[:1], NAMES[:1])
    assert torch.equal(first.anomaly_map, again.anomaly_map)


def test_prediction_works_within_inference_mode(backbone: Backbone, images: Tensor) -> None:
    detector = AnoVL(backbone, AnoVLConfig(views="one"))
    plain = detector.predict(images, NAMES)

    with torch.inference_mode():
        found = detector.predict(1.0 * images, NAMES)

    assert torch.equal(found.anomaly_map, plain.anomaly_map)


def test_vv_stream_runs_in_every_block(backbone: Backbone, images: Tensor) -> None:
    detector = AnoVL(backbone, AnoVLConfig())
    embedded = backbone.embed_images(images)

    with torch.no_grad():
        found = detector.patch_features(images)
        later = backbone.run_dual_stream(embedded, (3,)).stages[0]

    assert not torch.allclose(found, backbone.project_vision(later[:, 1:]), atol=1e-3)


def test_without_views_and_steps_it_is_a_plain_softmax(backbone: Backbone, images: Tensor) -> None:
    detector = AnoVL(backbone, AnoVLConfig(views="one", adaptation_steps=0))

    found = detector.predict(images, NAMES)

    with torch.no_grad():
        tokens = backbone.run_vision(backbone.embed_images(images), ()).class_token
        feature = F.normalize(backbone.project_vision(tokens), dim=-1)
    cosines = (detector.anchors.unit(NAMES) @ feature[:, :, None]).squeeze(-1)
    torch.testing.assert_close(found.image_score, cosines.softmax(-1)[:, 1], atol=1e-6, rtol=0)


def test_score_is_the_mean_over_views_that_each_ran_alone(
    backbone: Backbone, images: Tensor
) -> None:
    detector = AnoVL(backbone, AnoVLConfig(adaptation_steps=0))
    anchors = detector.anchors.unit(NAMES)

    found = detector.predict(images, NAMES)

    with torch.no_grad():
        alone = [detector._image_score(view, anchors) for view in image_views(images)]
    torch.testing.assert_close(found.image_score, torch.stack(alone).mean(0), atol=1e-6, rtol=0)


def test_images_are_resized_bilinearly_as_published(backbone: Backbone) -> None:
    assert AnoVL(backbone, AnoVLConfig()).resampling == "bilinear"
    assert AnoVL(backbone, AnoVLConfig(resampling="bicubic")).resampling == "bicubic"


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_both_kinds_of_macaroni_are_called_macaroni(backbone: Backbone, preset: str) -> None:
    detector = AnoVL(backbone, AnoVLConfig.model_validate({"preset": preset}))

    first, second, plain = (
        detector.anchors.unit([name]) for name in ("macaroni1", "macaroni2", "macaroni")
    )

    assert torch.equal(first, plain)
    assert torch.equal(second, plain)
