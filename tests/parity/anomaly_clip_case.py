"""Runs AnomalyCLIP (official preset) on a synthetic full-size ViT-L/14@336, keeps the numbers."""

import torch
from reference_case import LAYERS, CaseResults, CaseSettings, synthetic_backbone
from torch.nn import functional as F

from zsad.clip_features import FrozenFeatures
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.methods.anomaly_clip import AnomalyCLIP
from zsad.scoring import half_pixel_matrix, upsample


def name_in_detector(reference: str) -> str:
    """`anomaly_clip.deep_tokens.2` (1-based text layer) -> `deep_tokens.0`."""
    _, part, *layer = reference.split(".")
    return f"{part}.{int(layer[0]) - 2}" if layer else part


def run_case(settings: CaseSettings) -> CaseResults:
    backbone = synthetic_backbone(
        settings, activation="quick_gelu", position_interpolation="bilinear"
    )
    trained = settings.trained(name_in_detector)
    last, four = (
        AnomalyCLIP(backbone, AnomalyCLIPConfig(preset="official", levels=levels))
        for levels in ("last", "all")
    )
    for detector in (last, four):
        detector.load_trainable_state_dict(trained)
    images, masks, labels = (
        settings.images(backbone.patch_px),
        settings.masks(),
        torch.tensor(settings.labels),
    )

    with torch.no_grad():
        embedded = backbone.embed_images(images)
        tokens = backbone.run_dual_stream(embedded, backbone.stage_blocks)
        local = backbone.project_vision(torch.stack(tokens.stages))  # [4, B, 1 + P, D]
        patches = local.shape[2] - 1
        rows = F.normalize(local, dim=-1)[:, :, [0, 1, patches // 2, patches], ::4]
        features = four.frozen_features(embedded)
        raw = four.outputs_of(features, four.texts())
        raw_last = last.raw_outputs(images, settings.names)
        plain = half_pixel_matrix(backbone.grid, settings.side)
        arrays = {
            "global_raw": backbone.project_unnormed(tokens.class_token),
            "global_feature": features.class_feature,
            "local_rows": rows,
            "local_raw_norm": local.norm(dim=-1),
            "text_raw": four.encode_texts(),
            "text_normal": four.texts()[0],
            "text_abnormal": four.texts()[1],
            "grids": raw.grids.transpose(0, 1),
            "map": upsample(raw_last.grids[:, 0], plain),
            "map_smooth": raw_last.summed_map,
            "map_four_levels_smooth_sub4": raw.summed_map[:, ::4, ::4],
            "score": raw.image_score,
        }

    found = four.losses_of(features, masks, labels)
    last_features = FrozenFeatures(features.levels[-1:], features.class_feature)
    found_last = last.losses_of(last_features, masks, labels)
    losses = {
        "image_cross_entropy": found.terms["image"],
        "total_four_levels": found.total,
        "total_level_24": found_last.total,
    }
    for layer in LAYERS:
        for term in ("focal", "dice_abnormal", "dice_normal"):
            losses[f"{term}_{layer}"] = found.terms[f"{term}_{layer - 1}"] / 4
    by_name = dict(last.named_parameters())
    parameters = {name: by_name[name_in_detector(name)] for name, *_ in settings.trainable}
    values = torch.autograd.grad(found_last.total, list(parameters.values()))
    return CaseResults(
        arrays=arrays,
        losses={name: value.item() for name, value in losses.items()},
        gradients=dict(zip(parameters, values, strict=True)),
    )
