import functools

import pytest
from april_gan_case import run_case
from cut_anchors import with_cuts
from reference_case import (
    CaseSettings,
    assert_pinned,
    assert_whole_reference,
    given_anchors,
    read_pinned,
    read_reference,
)

pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]

run_once = functools.cache(run_case)


def test_official_preset_gives_the_released_codes_numbers() -> None:
    pinned = read_pinned("april_gan")

    found = run_once(with_cuts(CaseSettings.of(pinned)))

    assert_pinned(found, pinned)


def test_every_array_loss_and_gradient_of_the_reference_is_met() -> None:
    reference = read_reference("april_gan")

    found = run_once(with_cuts(CaseSettings.of(reference, given_anchors("april_gan"))))

    assert_whole_reference("april_gan", found, reference)
