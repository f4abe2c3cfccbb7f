import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.april_gan import AprilGANConfig
from zsad.detector import TrainingBatch
from zsad.methods.april_gan import AprilGAN
from zsad.prompts import APRIL_GAN_ENSEMBLE

NAMES = ["screw", "woven fabric", "screw"]


def test_ensemble_has_the_published_number_of_different_sentences() -> None:
    normal, abnormal = APRIL_GAN_ENSEMBLE.sentences("screw")

    assert (len(set(normal)), len(set(abnormal))) == (245, 175)
    assert "a black and white photo of the unblemished screw." in normal
    assert "this is one screw with damage in the scene." in abnormal


def test_anchors_equal_the_uncut_context(backbone: Backbone) -> None:
    detector = AprilGAN(backbone, AprilGANConfig())

    found = detector.anchors.unit(["screw"])[0]

    for row, sentences in enumerate(APRIL_GAN_ENSEMBLE.sentences("screw")):
        ids = backbone.tokenizer(sentences)
        with torch.no_grad():
            tokens = backbone.run_text(backbone.embed_text(ids))  # all 77 positions
            rows = tokens[torch.arange(len(ids)), ids.argmax(-1)] @ backbone.text_projection
        wanted = F.normalize(F.normalize(rows, dim=-1).mean(0), dim=-1)
        torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=0)


def test_map_is_the_mean_of_softmaxes_of_upsampled_logits(
    backbone: Backbone, images: Tensor
) -> None:
    detector = AprilGAN(backbone, AprilGANConfig())

    found = detector.predict(images, NAMES)

    with torch.no_grad():
        levels = detector.features(backbone.embed_images(images)).levels
    logits = 100 * levels @ detector.anchors.unit(NAMES).mT  # [4, B, N, 2]
    grids = logits.mT.reshape(12, 2, 7, 7)
    maps = F.interpolate(grids, size=(56, 56), mode="bilinear", align_corners=True).softmax(1)
    wanted = maps[:, 1].reshape(4, 3, 56, 56).mean(0)
    torch.testing.assert_close(found.anomaly_map, wanted, atol=1e-4, rtol=0)


def test_training_leaves_the_image_score_as_it_was(
    backbone: Backbone, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = AprilGAN(backbone, AprilGANConfig())
    before = detector.predict(images, NAMES)
    (stage,) = detector.stages()
    optimizer = torch.optim.Adam(stage.parameters, lr=stage.learning_rate(0), betas=stage.betas)

    batch = TrainingBatch(images, backbone.embed_images(images), masks, labels, NAMES)
    stage.losses(batch).total.backward()
    optimizer.step()

    after = detector.predict(images, NAMES)
    assert torch.equal(before.image_score, after.image_score)
    assert not torch.equal(before.anomaly_map, after.anomaly_map)
