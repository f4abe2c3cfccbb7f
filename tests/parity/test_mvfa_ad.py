import functools
import json
from typing import Any

import pytest
from mvfa_ad_case import run_case
from reference_case import (
    CaseSettings,
    assert_pinned,
    assert_whole_reference,
    read_pinned,
    reference_folder,
)

pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]

run_once = functools.cache(run_case)


def settings_of(reference: dict[str, Any]) -> CaseSettings:
    return CaseSettings.of(reference, {"training_image_index": reference["training_image_index"]})


def test_official_preset_gives_the_released_codes_numbers() -> None:
    pinned = read_pinned("mvfa_ad")

    found = run_once(settings_of(pinned))

    assert_pinned(found, pinned)


def test_every_array_loss_and_gradient_of_the_reference_is_met() -> None:
    reference = json.loads((reference_folder("mvfa_ad") / "mvfa_ad.json").read_text())

    found = run_once(settings_of(reference))

    assert_whole_reference("mvfa_ad", found, reference)
