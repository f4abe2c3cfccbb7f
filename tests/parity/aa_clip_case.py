"""Runs AA-CLIP (official preset) on a synthetic full-size ViT-L/14@336 and keeps the numbers."""

import json

import torch
from reference_case import LAYERS, CaseResults, CaseSettings, patch_rows, synthetic_backbone

from zsad.config.aa_clip import AAClipConfig
from zsad.losses import segmentation_terms
from zsad.methods.aa_clip import BLURS, AAClip
from zsad.scoring import upsample, upsample_matrix


def name_in_detector(reference: str) -> str:
    """`aa_clip.text_adapters.1.weight` -> `text_adapters.0.weight`."""
    _, part, *number, kind = reference.split(".")
    if not number:
        return f"{part}.{kind}"
    index = LAYERS.index(int(number[0])) if part == "seg_projectors" else int(number[0]) - 1
    return f"{part}.{index}.{kind}"


def run_case(settings: CaseSettings) -> CaseResults:
    backbone = synthetic_backbone(settings, activation="gelu")
    detector = AAClip(backbone, AAClipConfig(preset="official"))
    detector.load_trainable_state_dict(settings.trained(name_in_detector))
    phrases = json.loads(settings.extra)["phrases"]
    class_phrases = [phrases[name] for name in sorted(phrases)]
    names = [phrases[name] for name in settings.names]
    images, masks, labels = (
        settings.images(backbone.patch_px),
        settings.masks(),
        torch.tensor(settings.labels),
    )

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
        raw, unscaled = detector.raw_outputs(images, names), detector.unscaled(images, names)
        medical = upsample_matrix(detector.backbone.grid, settings.side, BLURS["medical"])
        sentence = f"a photo of a damaged {class_phrases[0]}."
        arrays = {
            "anchors": detector.anchors(class_phrases),
            "sentence_raw": detector.encode_sentences([sentence])[0],
            "class_feature": reference.class_feature,
            "stage1_local_rows": patch_rows(reference.levels),
            "stage1_local_rows_first_image_alone": patch_rows(alone.levels),
            "stage1_map_24_sub2": stage1[-1][:, ::2, ::2],
            "seg_rows": patch_rows(features.levels),
            "det_feature": features.detection,
            "stage2_map_24_sub2": stage2[-1][:, ::2, ::2],
            "grids": raw.level_grids,
            "map": raw.linear_map,
            "image_q": raw.image_term,
            "map_medical_sub2": upsample(raw.level_grids.sum(1), medical)[:, ::2, ::2],
            "score_minmax": detector.whole_set_scores(unscaled.terms).image_scores,
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
            name: gradients[id(by_name[name_in_detector(name)])]
            for name, _, _, _ in settings.trainable
        },
    )
