import functools
from typing import Any

import pytest
from cut_anchors import with_cuts
from mvfa_ad_case import run_case
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


def settings_of(reference: dict[str, Any], anchors: dict[str, Any]) -> CaseSettings:
    extra = {"training_image_index": reference["training_image_index"], **anchors}
    return with_cuts(CaseSettings.of(reference, extra))


def test_official_preset_gives_the_released_codes_numbers() -> None:
    pinned = read_pinned("mvfa_ad")

    found = run_once(settings_of(pinned, {}))

    assert_pinned(found, pinned)


def test_every_array_loss_and_gradient_of_the_reference_is_met() -> None:
    reference = read_reference("mvfa_ad")

    found = run_once(settings_of(reference, given_anchors("april_gan")))

    assert_whole_reference("mvfa_ad", found, reference)
