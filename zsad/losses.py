"""Training losses on probability maps. Pure functions; they know no method."""

from torch import Tensor

_SMOOTH = 1e-5
"""Label smoothing and log floor of the focal loss in the released code of the CLIP family."""


def focal_loss(abnormal: Tensor, masks: Tensor) -> Tensor:
    """Two-class focal loss (Lin et al. 2017, arXiv 1708.02002, Eq. 4) with gamma 2, alpha 1.

    FL = -(1 - p_t)^2 log p_t, averaged over all pixels, where
    p_t = sum_c clamp(onehot_c, 1e-5, 1 - 1e-5) p_c + 1e-5.

    Deviation: the two 1e-5 are not in the paper; the family's released code has them.

    Args:
        abnormal: [B, H, W] probability of the abnormal class.
        masks: [B, H, W] in {0, 1}.

    Returns:
        Scalar.
    """
    p_true = masks * abnormal + (1 - masks) * (1 - abnormal)
    p_t = (1 - _SMOOTH) * p_true + _SMOOTH * (1 - p_true) + _SMOOTH
    return -((1 - p_t) ** 2 * p_t.log()).mean()


def dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Dice loss per sample with smoothing 1, averaged over the batch.

    1 - (2 sum(xy) + 1) / (sum(x) + sum(y) + 1). A batch of one is one sample, not H samples.

    Args:
        probability: [B, H, W] in [0, 1].
        target: [B, H, W] in {0, 1}.

    Returns:
        Scalar.
    """
    p, t = probability.flatten(1), target.flatten(1)  # [B, H*W]
    return (1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()


def segmentation_terms(abnormal: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Focal loss and the Dice losses of both channels; their sum is L_seg.

    Args:
        abnormal: [B, H, W] probability of the abnormal class.
        masks: [B, H, W] in {0, 1}.
    """
    return {
        "focal": focal_loss(abnormal, masks),
        "dice_normal": dice_loss(1 - abnormal, 1 - masks),
        "dice_abnormal": dice_loss(abnormal, masks),
    }
