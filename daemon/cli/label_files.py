"""`zsad label import` and `export`: labels of annotation tools, in bulk."""

import argparse
import getpass
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, assert_never

from rich.console import Console

from daemon.cli.line_database import add_line_arguments, open_line
from daemon.cli.output import warn
from daemon.core import Label, LabelVerdict
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from daemon.labels.found import LabelFound, Problem
    from daemon.labels.picture import LabelledPicture

Format = Literal["masks", "mvtec", "coco", "labelme", "label-studio", "cvat"]
FORMATS: tuple[Format, ...] = ("masks", "mvtec", "coco", "labelme", "label-studio", "cvat")
MAX_SENTENCES = 20
"""So many problems are shown one by one; the rest is counted."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `import` and `export`."""
    parser = commands.add_parser("import", help="labels from a file or folder; docs/labels.md")
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument(
        "--unmarked",
        type=str.upper,
        choices=[LabelVerdict.OK.value],
        help="an image that nobody marked is OK (it is left out; not for masks and mvtec)",
    )
    add_author_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would come in")
    add_line_arguments(parser)
    parser.set_defaults(run=_run_import)

    parser = commands.add_parser("export", help="labels in force, in a form that import reads")
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("path", type=Path, metavar="FOLDER", help="absent or empty")
    add_line_arguments(parser)
    parser.set_defaults(run=_run_export)


def add_author_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --author."""
    parser.add_argument("--author", metavar="NAME", help="who says so (the user name)")


def author_of(args: argparse.Namespace) -> str:
    """Who labels.

    Raises:
        ConfigError: nobody is named, and the account has no name.
    """
    try:
        author: str = args.author or getpass.getuser()
    except (OSError, KeyError) as error:
        raise ConfigError("this account has no name: give --author NAME") from error
    return author


def require_fitting_masks(connection: "Connection", line: str, labels: Iterable[Label]) -> None:
    """Refuse a mask without the proportions of its frame, to within a pixel.

    Raises:
        ConfigError: names both sizes.
    """
    for label in labels:
        if problem := _misfit(connection, line, label):
            raise ConfigError(problem)


def _misfit(connection: "Connection", line: str, label: Label) -> str | None:
    from daemon.labels.mask import decode_mask
    from daemon.storage.labels import frame_size

    size = frame_size(connection, line, label.inspection_id)
    if label.mask_png is None or size is None:
        return None
    width, height = size
    if width is None or height is None:
        return None
    rows, columns = decode_mask(label.mask_png).shape
    # either side may be a pixel off by rounding
    if abs(columns * height - rows * width) <= max(width, height):
        return None
    return (
        f"inspection {label.inspection_id}: the mask has {columns} x {rows} pixels, the frame "
        f"{width} x {height}: give a mask with these proportions"
    )


def _run_import(args: argparse.Namespace) -> int:
    from daemon.storage.database import write_transaction
    from daemon.storage.labels import add_labels, match_names
    from zsad.image_files import DataError

    problems: list[str] = []
    unmarked = None if args.unmarked is None else LabelVerdict(args.unmarked)
    try:
        found = list(_read(args.format, args.path, problems.append, unmarked))
    except DataError as error:
        raise ConfigError(str(error)) from error
    author, now = author_of(args), datetime.now(UTC)
    with open_line(args) as (config, engine), write_transaction(engine) as connection:
        matches = match_names(connection, config.line, {label.image for label in found})
        labels = [
            Label(
                inspection_id=inspection_id,
                verdict=label.verdict,
                author=author,
                at_utc=now,
                source=f"import:{args.format}",
                defect=label.defect,
                mask_png=label.mask_png,
            )
            for label, inspection_id in _matched(found, matches, problems)
        ]
        fitting = []
        for label in labels:
            if problem := _misfit(connection, config.line, label):
                problems.append(problem)
            else:
                fitting.append(label)
        if not args.dry_run:
            add_labels(connection, config.line, fitting)
    _tell("would come in" if args.dry_run else "came in", fitting, problems)
    return 1 if problems else 0


def _run_export(args: argparse.Namespace) -> int:
    from daemon.cli.label_pictures import LabelledPictures
    from zsad.image_files import DataError

    folder: Path = args.path
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder: name a new one")
    problems: list[str] = []
    with open_line(args) as (config, engine), engine.connect() as connection:
        try:
            pictures = LabelledPictures(connection, config, problems.append)
            written = _write(args.format, folder, pictures, problems.append)
        except DataError as error:
            raise ConfigError(str(error)) from error
    _show(problems)
    Console(soft_wrap=True).print(
        f"{written} labels written to {folder}, {len(problems)} problems. Pictures: "
        f"{pictures.whole} whole frames, {pictures.thumbnails} thumbnails, enlarged to the size "
        "of the frame.",
        markup=False,
        highlight=False,
    )
    return 1 if problems else 0


def _read(
    name: Format, path: Path, on_problem: "Problem", unmarked: LabelVerdict | None
) -> "Iterator[LabelFound]":
    from daemon.labels import coco, cvat, label_studio, labelme, masks, mvtec

    match name:
        case "masks":
            return masks.read(path, on_problem)
        case "mvtec":
            return mvtec.read(path, on_problem)
        case "coco":
            return coco.read(path, on_problem, unmarked)
        case "labelme":
            return labelme.read(path, on_problem, unmarked)
        case "label-studio":
            return label_studio.read(path, on_problem, unmarked)
        case "cvat":
            return cvat.read(path, on_problem, unmarked)
        case _:
            assert_never(name)


def _write(
    name: Format, folder: Path, pictures: "Iterable[LabelledPicture]", on_problem: "Problem"
) -> int:
    from daemon.labels import coco, cvat, label_studio, labelme, masks, mvtec

    match name:
        case "masks":
            return masks.write(folder, pictures, on_problem)
        case "mvtec":
            return mvtec.write(folder, pictures, on_problem)
        case "coco":
            return coco.write(folder, pictures)
        case "labelme":
            return labelme.write(folder, pictures)
        case "label-studio":
            return label_studio.write(folder, pictures)
        case "cvat":
            return cvat.write(folder, pictures)
        case _:
            assert_never(name)


def _matched(
    found: "Sequence[LabelFound]", matches: dict[str, tuple[int, ...]], problems: list[str]
) -> "Iterator[tuple[LabelFound, int]]":
    """Labels with their inspection; an inspection that two files speak of is left out."""
    times = Counter(matches[label.image][0] for label in found if len(matches[label.image]) == 1)
    for label in found:
        ids = matches[label.image]
        if not ids:
            problems.append(
                f"{label.image}: no inspection of this line has this part_id, number or name "
                "(camera-epoch-seq)"
            )
        elif len(ids) > 1:
            shown = ", ".join(map(str, ids[:3]))
            problems.append(
                f"{label.image} may be inspection {shown}: name the file inspection-{ids[0]}"
            )
        elif times[ids[0]] > 1:
            problems.append(f"{label.image}: {times[ids[0]]} labels for inspection {ids[0]}")
        else:
            yield label, ids[0]


def _tell(what: str, labels: Sequence[Label], problems: list[str]) -> None:
    counts = Counter(label.verdict for label in labels)
    masked = sum(label.mask_png is not None for label in labels)
    _show(problems)
    Console(soft_wrap=True).print(
        f"{len(labels)} labels {what}: {counts[LabelVerdict.OK]} OK, {counts[LabelVerdict.NG]} NG, "
        f"{counts[LabelVerdict.UNCERTAIN]} UNCERTAIN, {masked} with a mask; "
        f"{len(problems)} images left out",
        markup=False,
        highlight=False,
    )


def _show(problems: list[str]) -> None:
    for problem in problems[:MAX_SENTENCES]:
        warn(problem)
    if len(problems) > MAX_SENTENCES:
        warn(f"and {len(problems) - MAX_SENTENCES} more")
