import functools

import pytest
from reference_case import (
    CaseSettings,
    assert_pinned,
    assert_whole_reference,
    read_pinned,
    read_reference,
)
from winclip_case import run_case

pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]

run_once = functools.cache(run_case)


def test_official_preset_gives_the_public_implementations_numbers() -> None:
    pinned = read_pinned("winclip")

    found = run_once(CaseSettings.of(pinned))

    assert_pinned(found, pinned)


def test_every_array_of_the_reference_is_met() -> None:
    reference = read_reference("winclip")

    found = run_once(CaseSettings.of(reference))

    assert_whole_reference("winclip", found, reference)
