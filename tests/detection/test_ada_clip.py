import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.ada_clip import AdaCLIPConfig
from zsad.detector import TrainingBatch
from zsad.methods.ada_clip import AdaCLIP
from zsad.prompt_tokens import encode_prompted_text, run_prompted_vision
from zsad.prompts import ADA_CLIP_ENSEMBLE

NAMES = ["screw", "woven fabric", "screw"]


def test_without_prompts_both_towers_are_plain_clip(backbone: Backbone, images: Tensor) -> None:
    embedded = backbone.embed_images(images)

    vision = run_prompted_vision(backbone, embedded, [])
    text = encode_prompted_text(backbone, [["a bad photo of a screw."]], [])

    plain = backbone.run_vision(embedded, backbone.stage_blocks)
    assert torch.equal(vision.class_token, plain.class_token)
    assert torch.equal(torch.stack(vision.stages), torch.stack(plain.stages))
    assert torch.equal(text[0], backbone.encode_text(["a bad photo of a screw."]))


def test_the_first_text_block_never_sees_a_prompt(backbone: Backbone) -> None:
    sentences = ["a bad photo of a screw."]
    prompts = [torch.randn(1, 5, backbone.text_width)]

    found = encode_prompted_text(backbone, [sentences], prompts)

    assert torch.equal(found[0], backbone.encode_text(sentences))
    changed = encode_prompted_text(backbone, [sentences], [*prompts, *prompts])
    assert not torch.allclose(changed, found, atol=1e-3)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_shared_prompts_equal_encoding_every_sentence_whole(backbone: Backbone, depth: int) -> None:
    pairs = [ADA_CLIP_ENSEMBLE.sentences(name) for name in NAMES]
    sentences = [normal + abnormal for normal, abnormal in pairs]
    prompts = [torch.randn(3, 5, backbone.text_width) for _ in range(depth)]

    found = encode_prompted_text(backbone, sentences, prompts)

    for image, group in enumerate(sentences):

        def overwrite(index: int, tokens: Tensor, image: int = image) -> Tensor:
            if index + 1 >= depth:
                return tokens
            new = prompts[index + 1][image].expand(len(tokens), -1, -1)
            return torch.cat([tokens[:, :1], new, tokens[:, 6:]], dim=1)

        whole = backbone.encode_text(group, after_block=overwrite)
        torch.testing.assert_close(found[image], whole, atol=1e-5, rtol=0)


def test_prompts_of_a_batch_equal_the_loop_over_its_images(
    backbone: Backbone, images: Tensor
) -> None:
    detector = AdaCLIP(backbone, AdaCLIPConfig())
    embedded = backbone.embed_images(images)

    with torch.no_grad():
        together = detector.features(embedded, NAMES)
        alone = [detector.features(embedded[i : i + 1], NAMES[i : i + 1]) for i in range(3)]

    for name, axis in (("anchors", 0), ("levels", 1), ("class_feature", 0)):
        looped = torch.cat([getattr(features, name) for features in alone], dim=axis)
        torch.testing.assert_close(getattr(together, name), looped, atol=1e-5, rtol=0)


def test_anchors_of_one_class_differ_between_images(backbone: Backbone, images: Tensor) -> None:
    detector = AdaCLIP(backbone, AdaCLIPConfig())

    with torch.no_grad():
        anchors = detector.features(backbone.embed_images(images), ["screw"] * 3).anchors

    assert (anchors[0] - anchors[1]).abs().max() > 1e-5


def test_ensemble_has_28_normal_and_20_abnormal_sentences() -> None:
    assert [len(group) for group in ADA_CLIP_ENSEMBLE.sentences("screw")] == [28, 20]


def test_cluster_feature_is_the_mean_of_the_clusters_means(
    backbone: Backbone, images: Tensor
) -> None:
    detector = AdaCLIP(backbone, AdaCLIPConfig(clusters=2))
    with torch.no_grad():
        features = detector.features(backbone.embed_images(images[:1]), ["screw"])
    labels = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]])  # 10 = 5 x 2 patches, unequal

    found = detector.cluster_feature(features, labels)

    chosen = features.levels[:, 0, detector.most_abnormal(features)[0]]  # [4, 10, D]
    means = [chosen[:, :3].flatten(0, 1).mean(0), chosen[:, 3:].flatten(0, 1).mean(0)]
    wanted = F.normalize((means[0] + means[1]) / 2, dim=-1)
    torch.testing.assert_close(found[0], wanted, atol=1e-6, rtol=0)


def test_most_abnormal_patches_come_first(backbone: Backbone, images: Tensor) -> None:
    detector = AdaCLIP(backbone, AdaCLIPConfig(clusters=2))
    with torch.no_grad():
        features = detector.features(backbone.embed_images(images), NAMES)

    chosen = detector.most_abnormal(features)

    probability = (100 * features.levels @ features.anchors.mT).mean(0).softmax(-1)[..., 1]
    found = probability.gather(1, chosen)
    assert chosen.shape == (3, 10)
    torch.testing.assert_close(found, probability.sort(descending=True).values[:, :10])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("prompts", "static"),
        ("prompts", "dynamic"),
        ("prompted", "vision"),
        ("prompted", "text"),
        ("hybrid_fusion", False),
        ("prompt_length", 3),
        ("vision_depth", 3),
        ("text_depth", 4),
        ("clusters", 3),
        ("fusion_weight", 0.9),
        ("dice_samples", "rows"),
        ("half_prompts", True),
    ],
)
def test_every_option_has_an_effect(
    backbone: Backbone, images: Tensor, masks: Tensor, labels: Tensor, option: str, value: object
) -> None:
    batch = TrainingBatch(images, backbone.embed_images(images), masks, labels, NAMES)

    totals = [
        AdaCLIP(backbone, AdaCLIPConfig.model_validate(options)).losses(batch).total.item()
        for options in ({}, {option: value})
    ]

    assert totals[0] != totals[1]


def test_official_preset_turns_hyphens_alone_into_spaces(
    backbone: Backbone, images: Tensor
) -> None:
    detector = AdaCLIP(backbone, AdaCLIPConfig(preset="official"))
    embedded = backbone.embed_images(images)

    with torch.no_grad():
        spaces, hyphens, underscores = (
            detector.features(embedded, [name] * 3).anchors
            for name in ("metal nut", "metal-nut", "metal_nut")
        )

    assert torch.equal(spaces, hyphens)
    assert not torch.equal(spaces, underscores)


def test_more_prompted_blocks_than_there_are_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="text_depth 5 is above the 4 blocks"):
        AdaCLIP(backbone, AdaCLIPConfig(text_depth=5))
