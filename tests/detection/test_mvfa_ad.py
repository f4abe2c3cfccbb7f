import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.mvfa_ad import MVFAConfig
from zsad.methods.mvfa_ad import MVFA

NAMES = ["retina", "liver", "retina"]


def test_weightless_adapters_leave_the_tower_as_it_was(backbone: Backbone, images: Tensor) -> None:
    detector = MVFA(backbone, MVFAConfig(adapter_weight=0.0))
    embedded = backbone.embed_images(images)

    with torch.no_grad():
        found = detector.features(embedded).class_token

    assert torch.equal(found, backbone.run_vision(embedded, ()).class_token)


def test_stream_keeps_what_the_adapters_do_not_take(backbone: Backbone, images: Tensor) -> None:
    detector = MVFA(backbone, MVFAConfig())
    embedded = backbone.embed_images(images)
    with torch.no_grad():
        for adapter in (*detector.seg, *detector.det):
            adapter.up.weight.zero_()

        found = detector.features(embedded)
        scaled = backbone.run_vision(embedded, (), after_block=lambda _, tokens: 0.8 * tokens)

    torch.testing.assert_close(found.class_token, scaled.class_token, atol=1e-5, rtol=1e-5)


def test_image_score_is_the_mean_patch_probability_of_the_det_features(
    backbone: Backbone, images: Tensor
) -> None:
    detector = MVFA(backbone, MVFAConfig())

    found = detector.predict(images, NAMES).image_score

    with torch.no_grad():
        det = F.normalize(detector.features(backbone.embed_images(images)).det, dim=-1)
    probability = (100 * det @ detector.anchors.unit(NAMES).mT).softmax(-1)[..., 1]
    torch.testing.assert_close(found, probability.mean(dim=(0, 2)), atol=1e-5, rtol=0)
