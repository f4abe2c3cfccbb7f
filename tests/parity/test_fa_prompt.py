import functools

import pytest
from fa_prompt_case import run_case
from reference_case import (
    CaseSettings,
    assert_pinned,
    assert_whole_reference,
    read_pinned,
    read_reference,
)

pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]

PINNED = read_pinned("fa_prompt")
run_once = functools.cache(run_case)


def test_official_preset_gives_the_released_codes_numbers() -> None:
    found = run_once(CaseSettings.of(PINNED))

    assert_pinned(found, PINNED)


def test_every_array_loss_and_gradient_of_the_reference_is_met() -> None:
    reference = read_reference("fa_prompt")

    found = run_once(CaseSettings.of(reference))

    assert_whole_reference("fa_prompt", found, reference)
