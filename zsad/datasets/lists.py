"""Data sets written down as a list of files: AA-CLIP's JSON lines, AnomalyCLIP's meta.json.

Refuses to know about folders without a list.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from zsad.data import Sample, Split, Warn, prompt_noun
from zsad.datasets.paths import listed, text_of
from zsad.image_files import DataError


class _JsonlEntry(BaseModel):
    """One line of AA-CLIP's list; other keys are left to their owner."""

    model_config = ConfigDict(frozen=True)
    image_path: str = Field(min_length=1)
    label: float  # 0 or 1; released lists write 1.0
    class_name: str = Field(min_length=1)
    mask_path: str | None = None


class _MetaEntry(BaseModel):
    """One image of AnomalyCLIP's meta.json."""

    model_config = ConfigDict(frozen=True)
    img_path: str = Field(min_length=1)
    mask_path: str | None = None
    cls_name: str = Field(min_length=1)
    specie_name: str = ""
    anomaly: float


_META = TypeAdapter(dict[str, dict[str, list[_MetaEntry]]])


def read_jsonl(root: Path, split: Split, warn: Warn) -> list[Sample]:
    """ROOT/<split>.jsonl, or the only .jsonl of ROOT; paths relative to ROOT.

    Raises:
        DataError: no such list, a bad line, or a file that is missing or outside ROOT.
    """
    path = root / f"{split}.jsonl"
    if not path.is_file():
        lists = sorted(root.glob("*.jsonl"))
        if len(lists) != 1:
            raise DataError(
                f"{root} has no {split}.jsonl and {len(lists)} other .jsonl files: name one "
                f"{split}.jsonl"
            )
        path = lists[0]
        warn(f"{path} is taken as split {split}, for there is no {split}.jsonl")
    samples = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = _JsonlEntry.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{path} line {number}: {_first(error)}: correct the line") from error
        where = f"{path} line {number}"
        is_anomalous = _label(entry.label, where)
        samples.append(
            Sample(
                image_path=listed(root, entry.image_path, where),
                category=entry.class_name,
                class_name=prompt_noun(entry.class_name),
                is_anomalous=is_anomalous,
                mask_path=listed(root, entry.mask_path, where)
                if is_anomalous and entry.mask_path
                else None,
                defect="anomalous" if is_anomalous else "good",
            )
        )
    return samples


def read_meta(root: Path, split: Split) -> list[Sample]:
    """ROOT/meta.json: split -> category -> entries; paths relative to ROOT.

    Raises:
        DataError: as `read_jsonl`, or the file has no such split.
    """
    path = root / "meta.json"
    try:
        splits = _META.validate_json(text_of(path))
    except ValidationError as error:
        raise DataError(f"{path}: {_first(error)}: correct the file") from error
    if split not in splits:
        raise DataError(f"{path} has no split {split!r}, only {sorted(splits)}")
    samples = []
    for category, entries in splits[split].items():
        for number, entry in enumerate(entries):
            where = f"{path}, {split}.{category}[{number}]"
            is_anomalous = _label(entry.anomaly, where)
            samples.append(
                Sample(
                    image_path=listed(root, entry.img_path, where),
                    category=entry.cls_name,
                    class_name=prompt_noun(entry.cls_name),
                    is_anomalous=is_anomalous,
                    mask_path=listed(root, entry.mask_path, where)
                    if is_anomalous and entry.mask_path
                    else None,
                    defect=(entry.specie_name or "anomalous") if is_anomalous else "good",
                )
            )
    return samples


def _label(value: float, where: str) -> bool:
    if value not in (0, 1):
        raise DataError(f"{where}: label is {value}, must be 0 (normal) or 1 (anomalous)")
    return value == 1


def _first(error: ValidationError) -> str:
    """The first complaint of a validation, with its place."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
