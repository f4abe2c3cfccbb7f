import math

import pytest
import torch

from zsad.losses import dice_loss, focal_loss, image_cross_entropy, segmentation_terms

GENERATOR = torch.Generator().manual_seed(1)
PROBABILITY = torch.rand(2, 5, 6, generator=GENERATOR)
MASKS = (torch.rand(2, 5, 6, generator=GENERATOR) > 0.7).float()


def test_focal_loss_equals_the_formula_pixel_by_pixel() -> None:
    total = 0.0
    for p, g in zip(PROBABILITY.flatten().tolist(), MASKS.flatten().tolist(), strict=True):
        p_t = 0.0
        for one_hot, channel in ((1 - g, 1 - p), (g, p)):
            p_t += min(max(one_hot, 1e-5), 1 - 1e-5) * channel
        p_t = torch.tensor(p_t + 1e-5)
        total += float(-((1 - p_t) ** 2) * p_t.log())

    assert focal_loss(PROBABILITY, MASKS).item() == pytest.approx(total / 60, rel=1e-5)


def test_focal_loss_is_close_to_the_published_formula_without_smoothing() -> None:
    p_t = torch.where(MASKS > 0, PROBABILITY, 1 - PROBABILITY).clamp_min(1e-5)

    plain = (-((1 - p_t) ** 2) * p_t.log()).mean()

    assert focal_loss(PROBABILITY, MASKS).item() == pytest.approx(plain.item(), rel=1e-3)


def test_dice_loss_equals_hand_computed_samples() -> None:
    probability = torch.tensor([[[1.0, 0.5]], [[0.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])

    # sample 0: 1 - (2 * 1 + 1) / (1.5 + 1 + 1); sample 1: 1 - 1 / 1
    assert dice_loss(probability, target).item() == pytest.approx((1 - 3 / 3.5) / 2)


def test_dice_loss_of_a_batch_is_the_mean_of_its_samples() -> None:
    alone = [dice_loss(PROBABILITY[i : i + 1], MASKS[i : i + 1]).item() for i in range(2)]

    assert dice_loss(PROBABILITY, MASKS).item() == pytest.approx(sum(alone) / 2)


def test_a_perfect_map_costs_nothing_and_the_opposite_costs_most() -> None:
    perfect = segmentation_terms(MASKS, MASKS)
    opposite = segmentation_terms(1 - MASKS, MASKS)

    assert sum(term.item() for term in perfect.values()) == pytest.approx(0, abs=1e-4)
    assert opposite["focal"].item() > 5
    assert all(opposite[name] > perfect[name] for name in perfect)


def test_saturated_probabilities_keep_finite_gradients() -> None:
    logits = torch.tensor([[[200.0, -200.0]]], requires_grad=True)

    sum(segmentation_terms(logits.sigmoid(), torch.tensor([[[0.0, 1.0]]])).values()).backward()

    assert torch.isfinite(logits.grad).all()


def test_normal_channel_can_be_left_out() -> None:
    abnormal, masks = torch.rand(2, 4, 4), (torch.rand(2, 4, 4) > 0.5).float()

    both = segmentation_terms(abnormal, masks)
    one = segmentation_terms(abnormal, masks, normal_channel=False)

    assert set(one) == {"focal", "dice_abnormal"}
    assert one["dice_abnormal"] == both["dice_abnormal"]


def test_image_cross_entropy_is_hand_computed_and_finite_at_certainty() -> None:
    score = torch.tensor([0.25, 0.25])
    certain = torch.tensor([0.0, 1.0], requires_grad=True)

    found = image_cross_entropy(score, torch.tensor([1, 0]))
    wrong = image_cross_entropy(certain, torch.tensor([1, 0]))
    wrong.backward()

    assert found.item() == pytest.approx((math.log(4) - math.log(0.75)) / 2)
    assert wrong.item() == pytest.approx(6 * math.log(10), rel=1e-2)
    assert torch.isfinite(certain.grad).all()
