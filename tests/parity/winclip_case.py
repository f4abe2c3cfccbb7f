"""Runs WinCLIP on the synthetic ViT-B/16+ at 240 and keeps the numbers."""

from reference_case import CaseResults, CaseSettings, synthetic_backbone

from zsad.config.winclip import WinCLIPConfig
from zsad.methods.winclip import WinCLIP


def run_case(settings: CaseSettings) -> CaseResults:
    backbone = synthetic_backbone(settings, "ViT-B-16-plus-240", activation="gelu")
    detector = WinCLIP(backbone, WinCLIPConfig(preset="official"))
    images = settings.images(backbone.patch_px)
    names = [name.replace("_", " ") for name in settings.names]  # so the reference was given them

    raw = detector.raw_outputs(images, names)
    arrays = {
        "anchors": detector.anchors.mean(sorted(set(names))),
        "global_feature_raw": raw.class_feature,
        "score": raw.image_score,
        "grid": raw.grid,
        "map_sub3": detector.prediction_of(raw).anomaly_map[:, ::3, ::3],
    }
    for size, windows, scores in zip((2, 3), raw.windows, raw.scores, strict=True):
        count = windows.shape[1]
        # the two public scales: 0, 97, 195 of 196 windows and 0, 84, 168 of 169
        arrays[f"window_rows_{size}"] = windows[:, [0, (count - 1) // 2, count - 1], ::4]
        arrays[f"window_norms_{size}"] = windows.norm(dim=-1)
        arrays[f"window_scores_{size}"] = scores
    return CaseResults(arrays, losses={}, gradients={})
