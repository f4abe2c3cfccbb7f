from collections.abc import Callable

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.methods.clip_zero_shot import CLIPZeroShot


def test_image_score_is_clips_own_zero_shot_classification(
    backbone: Backbone, make_clip: Callable[[], CLIP], images: Tensor
) -> None:
    detector = CLIPZeroShot(backbone, CLIPZeroShotConfig())

    found = detector.predict(images, ["screw"] * 3)

    tokenizer, clip = open_clip.tokenizer.SimpleTokenizer(), make_clip()
    sentences = ["a photo of a normal screw", "a photo of an anomalous screw"]
    with torch.no_grad():
        text = clip.encode_text(tokenizer(sentences), normalize=True)
        image = clip.encode_image(images, normalize=True)
    wanted = (100 * image @ text.T).softmax(-1)[:, 1]
    torch.testing.assert_close(found.image_score, wanted, atol=1e-5, rtol=0)


def test_map_is_the_upsampled_softmax_of_projected_patches(
    backbone: Backbone, images: Tensor
) -> None:
    detector = CLIPZeroShot(backbone, CLIPZeroShotConfig(temperature=0.07))

    found = detector.predict(images, ["screw"] * 3)

    with torch.no_grad():
        tokens = backbone.run_vision(backbone.embed_images(images), (3,)).stages[0]
        patches = F.normalize(backbone.project_vision(tokens[:, 1:]), dim=-1)
        probability = (patches @ detector.anchors.unit(["screw"] * 3).mT / 0.07).softmax(-1)
    grid = probability[..., 1].reshape(3, 1, 7, 7)
    wanted = F.interpolate(grid, size=(56, 56), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found.anomaly_map, wanted, atol=1e-5, rtol=0)


def test_clip_ac_averages_the_eighty_templates_of_each_state(backbone: Backbone) -> None:
    detector = CLIPZeroShot(backbone, CLIPZeroShotConfig(prompts="clip_ac"))

    found = detector.anchors.unit(["metal_nut"])[0]

    for row, state in enumerate(("normal", "anomalous")):
        sentences = [make(f"{state} metal nut") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]
        assert len(sentences) == 80
        rows = F.normalize(backbone.encode_text(sentences), dim=-1)
        wanted = F.normalize(rows.mean(0), dim=-1)
        torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=0)
