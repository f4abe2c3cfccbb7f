"""Runs AdaCLIP (official preset) on the synthetic ViT-L/14@336 and keeps the numbers.

The reference's clusters are given: the released code does not fix the start of its clustering.
"""

import json

import torch
from reference_case import LAYERS, CaseResults, CaseSettings, patch_rows, synthetic_backbone

from zsad.config.ada_clip import AdaCLIPConfig
from zsad.detector import TrainingBatch
from zsad.methods.ada_clip import AdaCLIP, AdaCLIPFeatures
from zsad.scoring import half_pixel_matrix, upsample

TERMS = {
    "focal": "focal",
    "dice_abnormal": "dice_abnormal_rowwise",
    "dice_normal": "dice_normal_rowwise",
}


def name_in_detector(reference: str) -> str:
    """`ada_clip.dynamic_visual.2.bias` -> `vision_prompts.dynamic.1.bias`, and so on."""
    _, part, *rest = reference.split(".")
    if part == "class_projection":
        return f"{part}.{rest[0]}"
    number = int(rest[0])
    if part == "patch_projections":
        return f"{part}.{LAYERS.index(number)}.{rest[1]}"
    kind, tower = part.split("_")
    tower = {"text": "text", "visual": "vision"}[tower]
    return ".".join([f"{tower}_prompts", kind, str(number - 1), *rest[1:]])


def run_case(settings: CaseSettings) -> CaseResults:
    backbone = synthetic_backbone(settings, activation="gelu", position_interpolation="bicubic")
    detector = AdaCLIP(backbone, AdaCLIPConfig(preset="official"))
    detector.load_trainable_state_dict(settings.trained(name_in_detector))
    images, names = settings.images(), list(settings.names)
    extra = json.loads(settings.extra)
    labels = torch.tensor(extra["cluster_labels"])

    with torch.no_grad():
        embedded = backbone.embed_images(images)
        features = detector.features(embedded, names)
        cosines = torch.einsum("lbnd,bkd->blkn", features.levels, features.anchors)
        maps = detector.level_logits(features).mean(0).sigmoid()
        smooth = half_pixel_matrix(settings.side, settings.side, 4.0)
        arrays = {
            "class_feature_plain": features.condition,
            "class_feature": features.class_feature,
            "local_rows": patch_rows(features.levels.transpose(0, 1)),
            "anchors": features.anchors,
            "hsf_feature": detector.cluster_feature(features, labels),
            "grids": 100 * cosines.unflatten(-1, (backbone.grid, backbone.grid)),
            "map_smooth": upsample(maps, smooth),
            "map_sub2": maps[:, ::2, ::2],
            "score": detector.image_score(features, labels),
            "selected_index": detector.most_abnormal(features),
        }
    prediction = detector.predict(images, names)
    torch.testing.assert_close(prediction.anomaly_map, arrays["map_smooth"])

    row = extra["training_image_index"]
    one = slice(row, row + 1)
    batch = TrainingBatch(
        images=images[one],
        embedded=embedded[one],
        masks=settings.masks()[one],
        labels=torch.tensor(settings.labels[one]),
        class_names=names[one],
    )
    trained: AdaCLIPFeatures = detector.features(batch.embedded, batch.class_names)
    found = detector.losses_of(trained, batch, labels[one])
    by_name = dict(detector.named_parameters())
    parameters = {name: by_name[name_in_detector(name)] for name, _, _, _ in settings.trainable}
    gradients = torch.autograd.grad(
        found.total, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    losses = {"total": found.total.item(), "image_focal": found.terms["image_focal"].item()}
    for block, layer in zip(backbone.stage_blocks, LAYERS, strict=True):
        for ours, theirs in TERMS.items():
            losses[f"{theirs}_{layer}"] = found.terms[f"{ours}_{block}"].item()
    return CaseResults(arrays, losses, dict(zip(parameters, gradients, strict=True)))
