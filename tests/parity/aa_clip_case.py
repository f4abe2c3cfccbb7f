"""Runs AA-CLIP (official preset) on a synthetic full-size ViT-L/14@336 and keeps the numbers."""

from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from synthetic_case import SyntheticCase, aa_clip_tensors, clip_l14_tensors
from torch import Tensor

from zsad.backbone import Backbone
from zsad.config import AAClipConfig, BackboneConfig
from zsad.losses import segmentation_terms
from zsad.methods.aa_clip import BLURS, AAClip
from zsad.scoring import upsample, upsample_matrix

LAYERS = (6, 12, 18, 24)  # 1-based, as the reference names them


@dataclass(frozen=True)
class CaseSettings:
    prefix: str
    side: int
    labels: tuple[int, ...]
    phrases: tuple[str, ...]  # one an image, in the order of the sorted class names' images
    class_phrases: tuple[str, ...]  # one a class, by sorted class name

    @classmethod
    def of(cls, reference: dict[str, Any]) -> "CaseSettings":
        case, phrases = reference["case"], reference["phrases"]
        return cls(
            prefix=case["seed_prefix"],
            side=case["image_side"],
            labels=tuple(case["labels"]),
            phrases=tuple(phrases[name] for name in case["object_names"]),
            class_phrases=tuple(phrases[name] for name in sorted(phrases)),
        )


@dataclass(frozen=True)
class CaseResults:
    arrays: dict[str, Tensor]
    losses: dict[str, float]
    gradients: dict[str, Tensor]


def synthetic_detector(case: SyntheticCase, side: int) -> AAClip:
    with torch.device("meta"):  # no time spent on weights that are replaced
        clip = open_clip.model.CLIP(**open_clip.get_model_config("ViT-L-14-336"))
    state = {
        name: case.tensor(f"clip_l14.{name}", shape, mean, std)
        for name, shape, mean, std in clip_l14_tensors()
    }
    clip.load_state_dict(state | {"logit_scale": torch.zeros(())}, assign=True)
    clip.attn_mask = torch.full((77, 77), float("-inf")).triu_(1)
    config = BackboneConfig(name="synthetic-l14", image_size=side, activation="gelu")
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    backbone = Backbone(clip, config, (0, 0, 0), (1, 1, 1), tokenizer)
    detector = AAClip(backbone, AAClipConfig(preset="official"))
    detector.load_trainable_state_dict(
        {
            f"{name}.weight": case.tensor(f"aa_clip.{reference}.weight", shape, 0.0, std)
            for reference, name, shape, std in aa_clip_tensors()
        }
    )
    return detector


def run_case(settings: CaseSettings) -> CaseResults:
    case = SyntheticCase(settings.prefix)
    detector = synthetic_detector(case, settings.side)
    names = list(settings.phrases)
    images = case.images(settings.side, len(names), detector.backbone.patch_px)
    masks = case.masks(settings.side, list(settings.labels))
    labels = torch.tensor(settings.labels)

    with torch.no_grad():
        embedded = detector.backbone.embed_images(images)
        reference = detector.reference_features(embedded)
        features = detector.visual_features(embedded)
        alone = detector.reference_features(embedded[:1])
        anchors = detector.anchors(names)
        stage1 = [
            detector.training_map(level + reference.class_feature[:, None], anchors)
            for level in reference.levels
        ]
        stage2 = [detector.training_map(level, anchors) for level in features.levels]
        raw = detector.raw_outputs(images, names)
        medical = upsample_matrix(detector.backbone.grid, settings.side, BLURS["medical"])
        sentence = f"a photo of a damaged {settings.class_phrases[0]}."
        arrays = {
            "anchors": detector.anchors(settings.class_phrases),
            "sentence_raw": detector.encode_sentences([sentence])[0],
            "class_feature": reference.class_feature,
            "stage1_local_rows": _rows(reference.levels),
            "stage1_local_rows_first_image_alone": _rows(alone.levels),
            "stage1_map_24_sub2": stage1[-1][:, ::2, ::2],
            "seg_rows": _rows(features.levels),
            "det_feature": features.detection,
            "stage2_map_24_sub2": stage2[-1][:, ::2, ::2],
            "grids": raw.level_grids,
            "map": raw.linear_map,
            "image_q": raw.image_term,
            "map_medical_sub2": upsample(raw.level_grids.sum(1), medical)[:, ::2, ::2],
            "score_minmax": detector.test_scores(raw).image_score,
        }

    total1 = detector.stage1_losses(images, masks, labels, names)
    total2 = detector.stage2_losses(images, masks, labels, names)
    losses = {"stage1_total": total1.total, "stage2_total": total2.total}
    losses["stage1_orthogonality"] = total1.terms["disentangle"] / 0.1
    losses["stage2_image_cross_entropy"] = total2.terms["image"]
    for stage, maps in (("stage1", stage1), ("stage2", stage2)):
        for layer, level_map in zip(LAYERS, maps, strict=True):
            for term, value in segmentation_terms(level_map, masks).items():
                losses[f"{stage}_{term}_{layer}"] = value
    gradients = {}
    for loss, parameters in (
        (total1.total, detector.stage1_parameters()),
        (total2.total, detector.stage2_parameters()),
    ):
        found = torch.autograd.grad(loss, parameters)
        gradients |= dict(zip(map(id, parameters), found, strict=True))
    by_name = dict(detector.named_parameters())
    return CaseResults(
        arrays=arrays,
        losses={name: value.item() for name, value in losses.items()},
        gradients={
            f"aa_clip.{reference}.weight": gradients[id(by_name[f"{name}.weight"])]
            for reference, name, _, _ in aa_clip_tensors()
        },
    )


def _rows(levels: Tensor) -> Tensor:
    """Patches 0, P//2, P-1 and every fourth channel of [4, B, P, D]."""
    patches = levels.shape[2]
    return levels[:, :, [0, patches // 2, patches - 1], ::4]
