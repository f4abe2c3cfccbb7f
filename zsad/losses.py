"""Training losses on probability maps. Pure functions; they know no method."""

from torch import Tensor
from torch.nn import functional as F

_SMOOTH = 1e-5
"""Label smoothing and log floor of the focal loss in the released code of the CLIP family."""
_CERTAIN = 1e-6
"""Bounds the gradient of a saturated image score."""


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


def binary_focal_loss(scores: Tensor, labels: Tensor, *, logits: bool) -> Tensor:
    """Focal loss of one score an image (Lin et al. 2017, Eq. 4) with gamma 2, alpha 1.

    Args:
        scores: [B] probabilities, or logits.
        labels: [B] in {0, 1}.
        logits: Whether scores are taken for logits.

    Returns:
        Scalar, the mean over the batch.
    """
    entropy = F.binary_cross_entropy_with_logits if logits else F.binary_cross_entropy
    neg_log_p_t = entropy(scores, labels.to(scores.dtype), reduction="none")
    return ((1 - (-neg_log_p_t).exp()) ** 2 * neg_log_p_t).mean()


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


def segmentation_terms(
    abnormal: Tensor, masks: Tensor, *, normal_channel: bool = True, rowwise_b1: bool = False
) -> dict[str, Tensor]:
    """Focal loss and the Dice losses of both channels; their sum is L_seg.

    Args:
        abnormal: [B, H, W] probability of the abnormal class.
        masks: [B, H, W] in {0, 1}.
        normal_channel: Whether the normal class has a Dice loss too.
        rowwise_b1: Whether Dice sees the H rows of a batch of one as samples, as released code
            does that squeezes the mask.
    """
    terms = {"focal": focal_loss(abnormal, masks)}
    if rowwise_b1 and len(masks) == 1:
        abnormal, masks = abnormal[0], masks[0]  # rows take the samples' place
    if normal_channel:
        terms["dice_normal"] = dice_loss(1 - abnormal, 1 - masks)
    return terms | {"dice_abnormal": dice_loss(abnormal, masks)}


def image_cross_entropy(probability: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of image scores; scores within 1e-6 of 0 or 1 count as that far.

    Args:
        probability: [B] in [0, 1].
        labels: [B], 1 is anomalous.

    Returns:
        Scalar.
    """
    inside = probability.clamp(_CERTAIN, 1 - _CERTAIN)
    return F.binary_cross_entropy(inside, labels.to(inside.dtype))


def two_state_cross_entropy(
    features: Tensor, anchors: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy over the cosines of an image with its normal and abnormal text.

    Args:
        features: [B, D] unit norm.
        anchors: [B, 2, D], or [1, 2, D] for all images, unit norm, normal first.
        labels: [B] int64, 1 is anomalous.
        temperature: Divides the cosines.

    Returns:
        Scalar.
    """
    cosines = (anchors @ features[:, :, None]).squeeze(-1)  # [B, 2]
    return F.cross_entropy(cosines / temperature, labels)
