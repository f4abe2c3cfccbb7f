"""What a reference bank compares, and a detector and banks looking at one batch together.

The same for every backbone and method, for it uses their contracts alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsad.backbone import Backbone
from zsad.detector import Detector, Prediction
from zsad.reference_bank import ReferenceBank


def patch_features(backbone: Backbone, embedded: Tensor) -> Tensor:
    """Patch tokens before the first block and after each quarter of the first half of the blocks.

    Deeper tokens know more of the defects that training saw and less of this product. They are not
    averaged over neighbours as in PatchCore (Roth et al. 2022, arXiv 2106.08265v2, section 3.1):
    where layouts differ from part to part, that hides small defects (docs/model-card.md).

    Args:
        embedded: [B, 1 + N, Dv] from `Backbone.embed_images`.

    Returns:
        [B, N, 3 Dv].
    """
    blocks = backbone.stage_blocks[:2]
    return torch.cat([embedded, *backbone.first_blocks(embedded, blocks)], dim=-1)[:, 1:]


def predict_with_features(
    detector: Detector, images: Tensor, class_names: Sequence[str]
) -> tuple[Prediction, Tensor]:
    """What the detector says, and `patch_features` [B, N, F] of the same images."""
    with torch.inference_mode(), detector.backbone.embedding_once():
        prediction = detector.predict(images, class_names)
        embedded = detector.backbone.embed_images(images)
        return prediction, patch_features(detector.backbone, embedded)


def predict_with_banks(
    detector: Detector,
    images: Tensor,
    class_names: Sequence[str],
    banks: Sequence[ReferenceBank | None],
    *,
    version: str,
) -> Prediction:
    """What the detector says, joined with its bank for every image that has one.

    Args:
        images: [B, 3, S, S], prepared.
        banks: B banks on the images' device; None leaves the detector's own opinion.
        version: Of the model.

    Raises:
        ValueError: not one bank an image, or a bank of another model.
    """
    if len(banks) != len(images):
        raise ValueError(f"{len(images)} images but {len(banks)} reference banks")
    for bank in banks:
        if bank is not None and bank.version != version:
            raise ValueError(
                f"reference bank of model {bank.version} given to {version}: learn it again"
            )
    prediction, features = predict_with_features(detector, images, class_names)
    rows = [
        Prediction(prediction.image_score[[row]], prediction.anomaly_map[[row]])
        if bank is None
        else bank.fuse(
            features[[row]],
            Prediction(prediction.image_score[[row]], prediction.anomaly_map[[row]]),
        )
        for row, bank in enumerate(banks)
    ]
    return Prediction(
        image_score=torch.cat([row.image_score for row in rows]),
        anomaly_map=torch.cat([row.anomaly_map for row in rows]),
    )
