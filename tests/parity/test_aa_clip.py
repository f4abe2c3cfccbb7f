import functools
import hashlib

import pytest
from aa_clip_case import run_case
from reference_case import (
    CaseResults,
    CaseSettings,
    assert_entries,
    assert_gradient,
    assert_whole_reference,
    read_pinned,
    read_reference,
)
from synthetic_case import SyntheticCase

pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]

PINNED = read_pinned("aa_clip")
run_once = functools.cache(run_case)


@pytest.fixture
def pinned() -> CaseResults:
    return run_once(CaseSettings.of(PINNED, {"phrases": PINNED["phrases"]}))


def test_the_rule_gives_the_published_fingerprint() -> None:
    tensor = SyntheticCase("A:").tensor("clip_l14.visual.ln_post.weight", (1024,), 1.0, 0.1)

    assert tensor[:3].tolist() == [0.9714619517326355, 0.9082173705101013, 1.0618914365768433]
    digest = hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest()
    assert digest.startswith("34167cebd04563d4")


@pytest.mark.parametrize("name", PINNED["arrays"])
def test_official_preset_gives_the_released_codes_entries(name: str, pinned: CaseResults) -> None:
    assert_entries(pinned.arrays[name], PINNED["arrays"][name])


@pytest.mark.parametrize("name", PINNED["losses"])
def test_official_preset_gives_the_released_codes_losses(name: str, pinned: CaseResults) -> None:
    wanted = PINNED["losses"][name]

    assert pinned.losses[name] == pytest.approx(wanted["value"], abs=wanted["atol"], rel=0)


@pytest.mark.parametrize("name", PINNED["gradients"])
def test_official_preset_gives_the_released_codes_gradients(name: str, pinned: CaseResults) -> None:
    assert_gradient(pinned.gradients[name], PINNED["gradients"][name])


def test_every_array_loss_and_gradient_of_the_reference_is_met() -> None:
    reference = read_reference("aa_clip")

    found = run_once(CaseSettings.of(reference, {"phrases": reference["phrases"]}))

    assert_whole_reference("aa_clip", found, reference)
