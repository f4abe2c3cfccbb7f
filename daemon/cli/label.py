"""`zsad label set`, `list` and `queue`: what people say of single frames."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.cli import label_files
from daemon.cli.arguments import positive_int
from daemon.cli.line_database import add_line_arguments, open_line
from daemon.config.line import Config
from daemon.core import Label, LabelVerdict
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.report.label_queue import Queued
    from daemon.storage.labels import Labelled

QUEUE_DAYS = 7


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `label set`, `list`, `queue`, `import` and `export`."""
    group = subparsers.add_parser("label", help="say what frames really are; the night learns it")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    parser = commands.add_parser("set", help="label one frame; an earlier label stays as history")
    parser.add_argument("inspection", type=positive_int, metavar="ID", help="as `zsad query` shows")
    parser.add_argument(
        "--verdict",
        type=str.upper,
        required=True,
        choices=[verdict.value for verdict in LabelVerdict],
    )
    parser.add_argument("--defect", metavar="NAME", help="what kind of defect it is")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="PNG, white where the defect is")
    parser.add_argument("--note", metavar="TEXT")
    label_files.add_author_argument(parser)
    add_line_arguments(parser)
    parser.set_defaults(run=_run_set)

    parser = commands.add_parser("list", help="labels in force, newest first")
    parser.add_argument(
        "--inspection", type=positive_int, metavar="ID", help="every label of one inspection"
    )
    parser.add_argument("--limit", type=positive_int, default=20, help="at most (20)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_line_arguments(parser)
    parser.set_defaults(run=_run_list)

    parser = commands.add_parser("queue", help="which frames to label next, and why")
    parser.add_argument("--limit", type=positive_int, default=20, help="at most (20)")
    parser.add_argument(
        "--days",
        type=positive_int,
        default=QUEUE_DAYS,
        help=f"of frames received in so many days ({QUEUE_DAYS})",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_line_arguments(parser)
    parser.set_defaults(run=_run_queue)

    label_files.add_commands(commands)


def _run_set(args: argparse.Namespace) -> int:
    from daemon.labels.found import defect_name
    from daemon.storage.database import write_transaction
    from daemon.storage.labels import add_labels
    from zsad.image_files import DataError

    with open_line(args) as (config, engine), write_transaction(engine) as connection:
        try:
            label = Label(
                inspection_id=args.inspection,
                verdict=LabelVerdict(args.verdict),
                author=label_files.author_of(args),
                at_utc=datetime.now(UTC),
                source="cli",
                defect=None if args.defect is None else defect_name(args.defect),
                mask_png=None if args.mask is None else _read_mask(args.mask),
                note=args.note,
            )
        except DataError as error:
            raise ConfigError(str(error)) from error
        label_files.require_fitting_masks(connection, config.line, [label])
        add_labels(connection, config.line, [label])
    Console(soft_wrap=True).print(
        f"inspection {label.inspection_id}: {label.verdict}"
        + (f", {label.defect}" if label.defect else "")
        + f", by {label.author}",
        markup=False,
        highlight=False,
    )
    return 0


def _read_mask(path: Path) -> bytes:
    from daemon.labels.mask import encode_mask, read_mask_file
    from zsad.image_files import DataError

    mask = read_mask_file(path)
    if not mask.any():
        raise DataError(f"{path} is all black, it marks nothing: leave --mask out")
    return encode_mask(mask)


def _run_list(args: argparse.Namespace) -> int:
    from daemon.storage.labels import label_history, labels_in_force

    with open_line(args) as (config, engine), engine.connect() as connection:
        if args.inspection is not None:
            found = label_history(connection, config.line, args.inspection)[: args.limit]
        else:
            found = list(labels_in_force(connection, config.line, limit=args.limit))
    if args.json:
        _write_json("labels", [_as_json(row) for row in found])
    else:
        _print_labels(found, config)
    return 0


def _run_queue(args: argparse.Namespace) -> int:
    from daemon.report.label_queue import draw_audit, read_queue
    from daemon.storage.database import write_transaction
    from daemon.storage.labels import note_draws

    with open_line(args) as (config, engine), write_transaction(engine) as connection:
        now = datetime.now(config.zone)
        today = now.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
        since_utc = (now - timedelta(days=args.days)).astimezone(UTC)
        found = read_queue(connection, config.line, since_utc, today, args.limit)
        drawn = draw_audit(connection, config.line, since_utc, today, args.limit)
        note_draws(connection, [frame.inspection_id for frame in drawn], now.astimezone(UTC))
    if args.json:
        _write_json("queue", [_queued_as_json(queued) for queued in found])
    else:
        _print_queue(found, config)
    return 0


def _write_json(name: str, rows: Sequence[dict[str, object]]) -> None:
    Console().file.write(json.dumps({name: rows}, indent=2, ensure_ascii=False) + "\n")


def _as_json(row: "Labelled") -> dict[str, object]:
    label = row.label
    return {
        "inspection_id": label.inspection_id,
        "camera": row.frame_id.camera,
        "category": row.category,
        "part_id": row.part_id,
        "label": label.verdict.value,
        "verdict": row.verdict,
        "pred_score": row.pred_score,
        "defect": label.defect,
        "has_mask": label.mask_png is not None,
        "author": label.author,
        "source": label.source,
        "note": label.note,
        "labelled_utc": label.at_utc.isoformat(),
    }


def _queued_as_json(queued: "Queued") -> dict[str, object]:
    frame = queued.frame
    return {
        "inspection_id": frame.inspection_id,
        "camera": frame.camera,
        "category": frame.category,
        "part_id": frame.part_id,
        "received_utc": frame.received_utc.isoformat(),
        "verdict": frame.verdict.value,
        "pred_score": frame.pred_score,
        "normalised_score": frame.normalised,
        "reason": queued.reason,
        "why": queued.why,
        "has_frame": frame.has_frame,
    }


def _print_labels(found: "Sequence[Labelled]", config: Config) -> None:
    from daemon.report.words import clean

    columns = ("id", "labelled", "label", "verdict", "defect", "mask", "by", "from")
    table = _table(*columns, last="part or note", caption=f"times of {config.timezone}")
    for row in found:
        label = row.label
        cells = (
            str(label.inspection_id),
            f"{label.at_utc.astimezone(config.zone):%Y-%m-%d %H:%M}",
            label.verdict,
            row.verdict,
            label.defect or "",
            "" if label.mask_png is None else "yes",
            label.author,
            label.source,
            label.note or row.part_id or "",
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    Console().print(table if table.row_count else "no label matches")


def _print_queue(found: "Sequence[Queued]", config: Config) -> None:
    from daemon.report.words import clean, score

    columns: tuple[str, ...] = ("id", "received", "camera", "category", "verdict", "score")
    caption = f"times of {config.timezone}"
    if config.frames is not None:
        columns, caption = (*columns, "frame"), f"{caption}; frame: whether all of it was kept"
    table = _table(*columns, last="why", caption=caption)
    for queued in found:
        frame = queued.frame
        cells = (
            str(frame.inspection_id),
            f"{frame.received_utc.astimezone(config.zone):%m-%d %H:%M}",
            frame.camera,
            frame.category,
            frame.verdict,
            score(frame.pred_score),
            *(() if config.frames is None else ("yes" if frame.has_frame else "",)),
            f"{queued.reason.replace('_', ' ')}: {queued.why}",
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    Console().print(table if table.row_count else "nothing to label: no frame with a picture")


def _table(*names: str, last: str, caption: str) -> Table:
    """Narrow columns in one line each; the last has what is left of the terminal."""
    table = Table(caption=caption, caption_justify="left")
    for name in names:
        table.add_column(name, no_wrap=name not in ("from", "labelled"), overflow="fold")
    table.add_column(last, overflow="fold")
    return table
