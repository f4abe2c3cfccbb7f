"""Images that must not be inspected, and how often a person hears of it."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.sanity import SanityConfig
from daemon.core import Image, LossReason
from daemon.inspection.sanity import GOOD_AGAIN_AFTER, SanityGate, Unfit, unfit

BAD = Unfit(LossReason.FLAT, "flat")


def texture(seed: int = 0, mean: float = 128, contrast: float = 30) -> Image:
    noise = np.random.default_rng(seed).normal(mean, contrast, (300, 400, 1))
    return np.repeat(np.clip(noise, 0, 255).astype(np.uint8), 3, axis=2)


@pytest.mark.parametrize(
    ("image", "limits", "reason"),
    [
        (np.zeros((40, 60, 3), np.uint8), {}, LossReason.FLAT),
        (np.full((40, 60, 3), 255, np.uint8), {}, LossReason.FLAT),
        (texture(mean=10, contrast=3), {"min_brightness": 40}, LossReason.TOO_DARK),
        (texture(mean=250, contrast=3), {"max_brightness": 230}, LossReason.TOO_BRIGHT),
        (
            cv2.GaussianBlur(texture(), (0, 0), 5),
            {"min_sharpness": 100},
            LossReason.BLURRED,
        ),
        (texture(), {"width_px": 640}, LossReason.WRONG_SIZE),
        (texture(), {"height_px": 640}, LossReason.WRONG_SIZE),
    ],
)
def test_an_unfit_image_is_refused_with_value_and_limit(
    image: Image, limits: dict[str, float], reason: LossReason
) -> None:
    problem = unfit(image, SanityConfig.model_validate(limits))

    assert problem is not None
    assert problem.reason is reason
    assert "sanity." in problem.detail


def test_a_fit_image_is_not_refused_by_the_strictest_sensible_limits() -> None:
    limits = SanityConfig(
        min_contrast=5, min_brightness=40, max_brightness=230, min_sharpness=100, width_px=400
    )

    assert unfit(texture(), limits) is None


def test_a_frozen_camera_is_refused_from_one_image_beyond_the_limit_until_it_moves() -> None:
    gate, limits = SanityGate(), SanityConfig(frozen_after=3)
    still = texture(1)

    refused = [gate.check("cam", still, limits) is not None for _ in range(5)]
    other_camera = gate.check("other", still, limits)
    moved = gate.check("cam", texture(2), limits)

    assert refused == [False, False, False, True, True]
    assert other_camera is None
    assert moved is None


def test_sensor_noise_is_enough_to_be_alive() -> None:
    gate, limits = SanityGate(), SanityConfig(frozen_after=2)
    rng = np.random.default_rng(3)
    scene = texture(1).astype(int)

    problems = [
        gate.check(
            "cam", np.clip(scene + rng.normal(0, 1, scene.shape), 0, 255).astype("u1"), limits
        )
        for _ in range(6)
    ]

    assert problems == [None] * 6


@given(pattern=st.lists(st.booleans(), max_size=200))
def test_bad_and_good_spells_alternate_and_a_flicker_is_one_spell(pattern: list[bool]) -> None:
    gate = SanityGate()

    spells = [gate.spell("cam", BAD if is_bad else None) for is_bad in pattern]

    seen = [change.is_bad for change in spells if change is not None]
    assert seen == [index % 2 == 0 for index in range(len(seen))]
    assert len(seen) <= 1 + 2 * (len(pattern) // (GOOD_AGAIN_AFTER + 1))
