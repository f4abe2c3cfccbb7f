"""Runs APRIL-GAN (official preset) on the synthetic ViT-L/14@336 and keeps the numbers."""

import torch
from cut_anchors import CutAnchors
from reference_case import LAYERS, CaseResults, CaseSettings, patch_rows, synthetic_backbone

from zsad.config.april_gan import AprilGANConfig
from zsad.detector import TrainingBatch
from zsad.methods.april_gan import AprilGAN


def name_in_detector(reference: str) -> str:
    """`april_gan.linears.12.bias` -> `linears.1.bias`."""
    _, part, layer, kind = reference.split(".")
    return f"{part}.{LAYERS.index(int(layer))}.{kind}"


def run_case(settings: CaseSettings) -> CaseResults:
    backbone = synthetic_backbone(settings, activation="gelu")
    detector = AprilGAN(backbone, AprilGANConfig(preset="official"))
    detector.load_trainable_state_dict(settings.trained(name_in_detector))
    detector.anchors = CutAnchors(settings, backbone)
    images, names = settings.images(backbone.patch_px), list(settings.names)
    classes = sorted(set(names))

    with torch.no_grad():
        embedded = backbone.embed_images(images)
        tokens = torch.stack(backbone.run_vision(embedded, backbone.stage_blocks).stages)
        features = detector.features(embedded)
        anchors = detector.anchors.unit(names)
        maps = detector.level_maps(features.levels, anchors)
        cosines = torch.einsum("lbnd,bkd->blkn", features.levels, anchors)
        last = tokens.shape[2] - 1
        prediction = detector.predict(images, names)
        arrays = {
            "sentence_raw": backbone.encode_text([f"a photo of a damaged {classes[0]}."])[0],
            "anchors": detector.anchors.unit(classes),
            "tokens_rows": tokens[:, :, [0, 1, last // 2 + 1, last], ::16],
            "tokens_norm": tokens.norm(dim=-1),
            "global_feature": features.class_feature,
            "score": prediction.image_score,
            "local_rows": patch_rows(features.levels),
            "logit_grids": 100 * cosines.unflatten(-1, (backbone.grid, backbone.grid)),
            "map": maps.sum(0),
            "map_level_6_sub2": maps[0, :, ::2, ::2],
        }
        torch.testing.assert_close(4 * prediction.anomaly_map, arrays["map"])

    found = detector.losses(
        TrainingBatch(images, embedded, settings.masks(), torch.tensor(settings.labels), names)
    )
    by_name = dict(detector.named_parameters())
    parameters = {name: by_name[name_in_detector(name)] for name, _, _, _ in settings.trainable}
    gradients = torch.autograd.grad(found.total, list(parameters.values()))
    losses = {"total": found.total.item()}
    for block, layer in zip(backbone.stage_blocks, LAYERS, strict=True):
        for term in ("focal", "dice_abnormal"):
            losses[f"{term}_{layer}"] = found.terms[f"{term}_{block}"].item()
    return CaseResults(arrays, losses, dict(zip(parameters, gradients, strict=True)))
