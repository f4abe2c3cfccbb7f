"""A candidate's reference banks, before anybody asks it anything: a bank belongs to one model.

A category that the candidate scores as the active model does keeps its bank; any other learns one
anew, from good images that the candidate has not learnt from.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from daemon.config.categories import CategoryConfig
from daemon.inspection.calibration import MIN_FRAMES
from daemon.inspection.loaded_model import LoadedModel, views_of
from daemon.inspection.references import bank_path
from zsad.image_files import load_image
from zsad.reference_bank import BankError
from zsad.reference_file import load_bank, save_bank


def take_over_banks(
    folder: Path,
    categories: Mapping[str, CategoryConfig],
    alike: Collection[str],
    active: str,
    candidate: str,
    device: torch.device,
) -> None:
    """Write the active model's banks as the candidate's, where both score a category alike.

    Args:
        folder: Of all banks.
        alike: Categories that both score alike without a bank.
        active, candidate: Versions of the models.

    Raises:
        OSError: one cannot be written.
    """
    for name in alike:
        recipe = categories[name].recipe
        old, new = (bank_path(folder, name, version, recipe) for version in (active, candidate))
        if not categories[name].references or new.exists() or not old.exists():
            continue
        try:
            bank = load_bank(old, version=active, device=device)
        except BankError:  # the daemon has said so; the category learns anew
            continue
        save_bank(new, replace(bank, version=candidate))


def make_bank(
    model: LoadedModel, name: str, category: CategoryConfig, good: Sequence[Path]
) -> None:
    """Learn a category's bank where it wants one and has none.

    Args:
        good: Images of good parts that the model has not learnt from; `for_thresholds` leaves out
            those that the bank takes.

    Raises:
        BankError: too few images, or they make no bank.
        DataError: an image is damaged.
        OSError: the bank cannot be written.
        TilingError: an image needs too many tiles.
    """
    if not category.references or model.references.bank_of(name) is not None:
        return
    wanted = category.references + MIN_FRAMES
    if len(good) < wanted:
        raise BankError(
            f"{len(good)} images of good parts, {wanted} are needed: run `zsad calibrate "
            f"--category {name}` with images, or let the category learn"
        )
    least_side = model.least_side(category)
    images = (load_image(file, least_side=least_side) for file in _for_bank(category, good))
    views = (views_of(category, image, model.predictor) for image in images)
    model.references.learn(name, views)
    model.references.keep(name)


def for_thresholds(category: CategoryConfig, good: Sequence[Path]) -> list[Path]:
    """The images that no bank was made of."""
    taken = set(_for_bank(category, good))
    return [file for file in good if file not in taken]


def _for_bank(category: CategoryConfig, good: Sequence[Path]) -> list[Path]:
    """Evenly spread, for good images are in the order of their times."""
    n = min(category.references, len(good))
    return [good[i * len(good) // n] for i in range(n)]
