"""Runs AdaCLIP (official preset) on the synthetic ViT-L/14@336 and keeps the numbers.

The reference's clusters are given: the released code does not fix the start of its clustering.
"""

import json
from typing import Any

import torch
from reference_case import LAYERS, CaseResults, CaseSettings, patch_rows, synthetic_backbone
from torch import Tensor

from zsad.config.ada_clip import AdaCLIPConfig
from zsad.detector import TrainingBatch
from zsad.methods.ada_clip import AdaCLIP, AdaCLIPFeatures
from zsad.scoring import half_pixel_matrix, state_logit, upsample

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


def labels_of_patches(chosen: Tensor, extra: dict[str, Any]) -> Tensor:
    """The reference's cluster of every chosen patch, for nearly equal patches may change places."""
    labels = torch.tensor(extra["cluster_labels"])
    selected = torch.tensor(extra.get("selected_index", chosen.tolist())).long()
    by_patch = torch.full((len(chosen), int(chosen.max()) + 1), -1)
    by_patch.scatter_(1, selected.clamp_max(by_patch.shape[1] - 1), labels)
    found = by_patch.gather(1, chosen)
    assert (found >= 0).all(), "the reference clusters other patches"
    return found


def run_case(settings: CaseSettings) -> CaseResults:
    backbone = synthetic_backbone(settings, activation="gelu", position_interpolation="bicubic")
    detector = AdaCLIP(backbone, AdaCLIPConfig(preset="official"))
    detector.load_trainable_state_dict(settings.trained(name_in_detector))
    images, names = settings.images(backbone.patch_px), list(settings.names)
    extra = json.loads(settings.extra)

    with torch.no_grad():
        embedded = backbone.embed_images(images)
        features = detector.features(embedded, names)
        labels = labels_of_patches(detector.most_abnormal(features), extra)
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
    ordered = {"selected_index": state_logit(features.levels, features.anchors, 0.01).mean(0)}
    return CaseResults(arrays, losses, dict(zip(parameters, gradients, strict=True)), ordered)
