import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from aa_clip_case import CaseResults, CaseSettings, run_case
from synthetic_case import SyntheticCase

HERE = Path(__file__).parent

pytestmark = [pytest.mark.parity, pytest.mark.timeout(300)]

PINNED = json.loads((HERE / "aa_clip_pinned.json").read_text())
run_once = functools.cache(run_case)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pinned() -> CaseResults:
    return run_once(CaseSettings.of(PINNED))


def test_the_rule_gives_the_published_fingerprint() -> None:
    tensor = SyntheticCase("A:").tensor("clip_l14.visual.ln_post.weight", (1024,), 1.0, 0.1)

    assert tensor[:3].tolist() == [0.9714619517326355, 0.9082173705101013, 1.0618914365768433]
    digest = hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest()
    assert digest.startswith("34167cebd04563d4")


def reference_folder() -> Path:
    beside_checkout = HERE.parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("ZSAD_REFERENCE", beside_checkout))
    if not (folder / "aa_clip.npz").is_file():
        pytest.skip(f"no numerical reference in {folder}; set ZSAD_REFERENCE to its folder")
    return folder


@pytest.mark.parametrize("name", PINNED["arrays"])
def test_official_preset_gives_the_released_codes_entries(name: str, pinned: CaseResults) -> None:
    wanted = PINNED["arrays"][name]

    found = pinned.arrays[name]

    assert list(found.shape) == wanted["shape"]
    entries = found.flatten()[wanted["index"]]
    torch.testing.assert_close(entries, torch.tensor(wanted["value"]), atol=wanted["atol"], rtol=0)


@pytest.mark.parametrize("name", PINNED["losses"])
def test_official_preset_gives_the_released_codes_losses(name: str, pinned: CaseResults) -> None:
    wanted = PINNED["losses"][name]

    assert pinned.losses[name] == pytest.approx(wanted["value"], abs=wanted["atol"], rel=0)


@pytest.mark.parametrize("name", PINNED["gradients"])
def test_official_preset_gives_the_released_codes_gradients(name: str, pinned: CaseResults) -> None:
    assert_gradient(pinned.gradients[name], PINNED["gradients"][name])


def test_every_array_loss_and_gradient_of_the_reference_is_met() -> None:
    folder = reference_folder()
    reference = json.loads((folder / "aa_clip.json").read_text())
    arrays = np.load(folder / "aa_clip.npz")

    found = run_once(CaseSettings.of(reference))

    assert found.arrays.keys() == reference["arrays"].keys()
    assert found.losses.keys() == reference["losses"].keys()
    assert found.gradients.keys() == reference["gradients"].keys()
    for name, description in reference["arrays"].items():
        np.testing.assert_allclose(
            found.arrays[name].numpy(), arrays[name], atol=description["atol"], rtol=0, err_msg=name
        )
    for name, wanted in reference["losses"].items():
        assert found.losses[name] == pytest.approx(wanted["value"], abs=wanted["atol"], rel=0), name
    for name, wanted in reference["gradients"].items():
        assert_gradient(found.gradients[name], wanted)


def assert_gradient(found: torch.Tensor, wanted: dict[str, object]) -> None:
    norm = torch.linalg.vector_norm(found.double()).item()
    assert norm == pytest.approx(wanted["l2"], rel=wanted["l2_rtol"])
    entries = found.flatten()[wanted["index"]]
    torch.testing.assert_close(
        entries, torch.tensor(wanted["value"]), atol=wanted["value_atol"], rtol=0
    )
