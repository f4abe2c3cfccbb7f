"""What a file of labels says of one image, and how an image's marks become one verdict.

Refuses to know any file format and which inspection an image belongs to.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from daemon.core import LabelVerdict
from daemon.labels.mask import Mask, encode_mask
from zsad.datasets.layouts import ABNORMAL_FOLDERS, NORMAL_FOLDERS
from zsad.image_files import DataError

UNCERTAIN_WORDS = ("uncertain", "unsure")
NAMELESS = "defect"
"""Class or folder of a defect that nobody named, where a format needs a name."""

_DEFECT = re.compile(r"\w(?:[\w .+-]{0,62}\w)?")

Problem = Callable[[str], None]
"""Receives a sentence for each image that is left out, and why."""


@dataclass(frozen=True, slots=True)
class LabelFound:
    """A label of one image, before or after it has an inspection.

    Attributes:
        image: The image's file name as the tool wrote it, without folders and suffix.
        mask_png: As in `daemon.core.Label`.
    """

    image: str
    verdict: LabelVerdict
    defect: str | None = None
    mask_png: bytes | None = None


def image_key(file_name: str) -> str:
    """A file name as the tool wrote it, of any system, without folders and suffix.

    It is only ever compared, never opened.
    """
    name = file_name.replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.isalnum() and len(suffix) <= 4 and stem else name


def meaning(word: str) -> tuple[LabelVerdict, str | None]:
    """Verdict and defect name that a class or folder name stands for.

    Raises:
        DataError: It cannot be a defect's name.
    """
    plain = word.strip().casefold()
    if plain in NORMAL_FOLDERS:
        return LabelVerdict.OK, None
    if plain in UNCERTAIN_WORDS:
        return LabelVerdict.UNCERTAIN, None
    return LabelVerdict.NG, None if plain in ABNORMAL_FOLDERS else defect_name(word)


def defect_name(text: str) -> str:
    """A defect's name, which has to do as the name of a class and of a folder.

    Raises:
        DataError: It does not.
    """
    name = text.strip()
    reserved = (*NORMAL_FOLDERS, *ABNORMAL_FOLDERS, *UNCERTAIN_WORDS)
    if _DEFECT.fullmatch(name) is None:
        raise DataError(
            f"defect name {text[:80]!r}: 1 to 64 letters, digits, spaces and . + - _ are allowed, "
            "with a letter or digit at both ends"
        )
    if name.casefold() in reserved:
        raise DataError(f"defect name {name!r} says no more than the verdict: leave it out")
    return name


def remarks(words: Iterable[str]) -> tuple[LabelVerdict | None, list[str]]:
    """What remarks on a whole image say: its verdict, and the other words, which name defects.

    Raises:
        DataError: Two verdicts.
    """
    found = list(words)
    verdicts = {word.upper() for word in found} & set(LabelVerdict)
    if len(verdicts) > 1:
        raise DataError(f"{sorted(verdicts)} contradict each other: say one of them")
    others = [word for word in found if word.upper() not in set(LabelVerdict)]
    return LabelVerdict(verdicts.pop()) if verdicts else None, others


def settle(
    image: str,
    words: Iterable[str],
    mask: Mask | None = None,
    *,
    said: LabelVerdict | None = None,
    said_defect: str | None = None,
    unmarked: LabelVerdict | None = None,
) -> LabelFound | None:
    """One label from everything that was said of an image.

    Marks of a defect win over a remark OK on the image: they are the later and harder work.

    Args:
        words: Classes that the image or parts of it were given.
        mask: All areas of defects together.
        said: What the file says of the whole image.
        unmarked: What an image with neither marks nor a remark is taken for.

    Returns:
        None where nothing was said.

    Raises:
        DataError: A class cannot be a defect's name.
    """
    meanings = [meaning(word) for word in words]
    verdicts = {verdict for verdict, _ in meanings}
    if said is not LabelVerdict.UNCERTAIN:
        for verdict in (LabelVerdict.NG, LabelVerdict.UNCERTAIN, LabelVerdict.OK):
            if verdict in verdicts:
                said = verdict
                break
    verdict_found = said or unmarked
    if verdict_found is None:
        return None
    if verdict_found is LabelVerdict.OK:
        return LabelFound(image, verdict_found)
    names = sorted({name for _, name in meanings if name is not None})
    defect = defect_name("+".join(names)) if names else said_defect
    mask_png = None if mask is None or not mask.any() else encode_mask(mask)
    return LabelFound(image, verdict_found, defect, mask_png)


def add_area(mask: Mask | None, word: str, area: Mask | None) -> Mask | None:
    """The mask with the area of one more mark, which counts unless its class says OK."""
    if area is None or meaning(word)[0] is LabelVerdict.OK:
        return mask
    return area if mask is None else mask | area
