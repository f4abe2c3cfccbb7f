"""Runs MVFA-AD (official preset) on the synthetic ViT-L/14@336 and keeps the numbers."""

import json

import torch
from cut_anchors import CutAnchors
from reference_case import LAYERS, CaseResults, CaseSettings, patch_rows, synthetic_backbone
from torch.nn import functional as F

from zsad.config.mvfa_ad import MVFAConfig
from zsad.detector import TrainingBatch
from zsad.methods.mvfa_ad import MVFA


def name_in_detector(reference: str) -> str:
    """`mvfa.seg.12.down.weight` -> `seg.1.down.weight`."""
    _, part, layer, direction, kind = reference.split(".")
    return f"{part}.{LAYERS.index(int(layer))}.{direction}.{kind}"


def run_case(settings: CaseSettings) -> CaseResults:
    backbone = synthetic_backbone(settings, activation="gelu")
    detector = MVFA(backbone, MVFAConfig(preset="official"))
    detector.load_trainable_state_dict(settings.trained(name_in_detector))
    detector.anchors = CutAnchors(settings, backbone)
    images, names = settings.images(backbone.patch_px), list(settings.names)

    with torch.no_grad():
        embedded = backbone.embed_images(images)
        features = detector.features(embedded)
        anchors = detector.anchors.unit(names)
        seg, det = (F.normalize(part, dim=-1) for part in (features.seg, features.det))
        cosines = torch.einsum("lbnd,bkd->blkn", seg, anchors)
        maps = detector.level_maps(features, anchors).sum(0)
        score = detector.level_scores(features, anchors).sum(0)
        arrays = {
            "pooled": backbone.project_vision(features.class_token),
            "seg_rows": patch_rows(seg.transpose(0, 1)),
            "det_rows": patch_rows(det.transpose(0, 1)),
            "seg_norm": features.seg.norm(dim=-1).transpose(0, 1),
            "grids": 100 * cosines.unflatten(-1, (backbone.grid, backbone.grid)),
            "map": maps,
            "score": score,
        }
        prediction = detector.predict(images, names)
    torch.testing.assert_close(4 * prediction.anomaly_map, maps)
    torch.testing.assert_close(4 * prediction.image_score, score)

    row = json.loads(settings.extra)["training_image_index"]
    one = slice(row, row + 1)
    batch = TrainingBatch(
        images=images[one],
        embedded=embedded[one],
        masks=settings.masks()[one],
        labels=torch.tensor(settings.labels[one]),
        class_names=names[one],
    )
    found = detector.losses(batch)
    by_name = dict(detector.named_parameters())
    parameters = {name: by_name[name_in_detector(name)] for name, _, _, _ in settings.trainable}
    gradients = torch.autograd.grad(
        found.total, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    losses = {"total": found.total.item()}
    for block, layer in zip(backbone.stage_blocks, LAYERS, strict=True):
        for term in ("bce", "focal", "dice_abnormal"):
            losses[f"{term}_{layer}"] = found.terms[f"{term}_{block}"].item()
    return CaseResults(arrays, losses, dict(zip(parameters, gradients, strict=True)))
