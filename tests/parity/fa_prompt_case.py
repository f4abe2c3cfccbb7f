"""Runs FAPrompt (official preset) on a synthetic full-size ViT-L/14@336 and keeps the numbers."""

import torch
from reference_case import CaseResults, CaseSettings, synthetic_backbone
from torch import Tensor
from torch.nn import functional as F

from zsad.config.fa_prompt import FAPromptConfig
from zsad.methods.fa_prompt import FAPrompt
from zsad.scoring import half_pixel_matrix, upsample


def name_in_detector(reference: str) -> str:
    """`fa_prompt.deep_tokens.2` (1-based text layer) -> `deep_tokens.0`; others keep theirs."""
    name = reference.removeprefix("fa_prompt.")
    part, *rest = name.split(".")
    return f"{part}.{int(rest[0]) - 2}" if part == "deep_tokens" else name


def run_case(settings: CaseSettings) -> CaseResults:
    backbone = synthetic_backbone(
        settings, activation="quick_gelu", position_interpolation="bilinear"
    )
    detector = FAPrompt(backbone, FAPromptConfig(preset="official"))
    detector.load_trainable_state_dict(settings.trained(name_in_detector))
    images, masks, labels = (
        settings.images(backbone.patch_px),
        settings.masks(),
        torch.tensor(settings.labels),
    )

    with torch.no_grad():
        embedded = backbone.embed_images(images)
        ordinary = torch.stack(backbone.run_vision(embedded, backbone.stage_blocks).stages)
        dual = backbone.run_dual_stream(embedded, backbone.stage_blocks)
        local_stream = torch.stack(dual.stages)
        local = backbone.project_vision(dual.stages[-1])  # [B, 1 + P, D]
        features = detector.frozen_features(embedded)
        texts, raw = detector.texts(), detector.outputs_of(features, detector.texts())
        assert raw.prior is not None
        top = FAPrompt(backbone, FAPromptConfig(selection="top"))
        arrays = {
            "o_tokens_rows": _rows(ordinary)[..., ::16],
            "o_tokens_norm": ordinary.norm(dim=-1),
            "v_tokens_rows": _rows(local_stream)[..., ::16],
            "v_tokens_norm": local_stream.norm(dim=-1),
            "global_raw": backbone.project_unnormed(dual.class_token),
            "global_feature": features.class_feature,
            "local_rows": _rows(F.normalize(local, dim=-1)),
            "local_raw_norm": local.norm(dim=-1),
            "text_normal_raw": texts.normal_raw,
            "text_abnormal_each_raw": texts.abnormal_each[:, ::8],
            "text_abnormal_raw": texts.abnormal_each.mean(0),
            "text_normal": texts.anchors[0, 0],
            "text_abnormal": texts.anchors[0, 1],
            "grid_plain": raw.plain_grid,
            "grid_prior": raw.prior.grid,
            "top10_index": top.selected(raw.plain_grid.flatten(1)).float(),
            "omega": raw.prior.omega,
            "text_abnormal_prior": raw.prior.anchors[:, 1],
            "p_cls": raw.class_probability,
            "score": raw.image_score,
            "map": upsample(raw.grid, half_pixel_matrix(backbone.grid, settings.side)),
            "map_smooth": raw.anomaly_map,
        }

    found = detector.losses_of(features, masks, labels)
    losses = {"total": found.total}
    for term in ("focal", "dice_abnormal", "dice_normal"):
        losses[f"{term}_plain"] = found.terms[f"{term}_plain"]
        losses[f"{term}_prior"] = found.terms[f"{term}_prior"] / 0.5
    losses["orthogonality"] = found.terms["orthogonality"] / 0.1
    losses["prior"] = found.terms["prior"]
    losses["image_cross_entropy"] = found.terms["image_cross_entropy"]
    losses["image_focal_with_logits"] = found.terms["image_focal"]
    by_name = dict(detector.named_parameters())
    parameters = {name: by_name[name_in_detector(name)] for name, *_ in settings.trainable}
    values = torch.autograd.grad(found.total, list(parameters.values()))
    return CaseResults(
        arrays=arrays,
        losses={name: value.item() for name, value in losses.items()},
        gradients=dict(zip(parameters, values, strict=True)),
        ordered={"top10_index": raw.plain_grid.flatten(1)},
    )


def _rows(tokens: Tensor) -> Tensor:
    """Tokens 0 (class), 1, P//2, P of [..., 1 + P, width]."""
    patches = tokens.shape[-2] - 1
    return tokens[..., [0, 1, patches // 2, patches], :]
