"""`zsad explain`: why one frame got its verdict."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.cli.arguments import positive_int
from daemon.cli.line_database import add_line_arguments, open_line
from daemon.cli.output import write_file
from daemon.config.line import Config
from daemon.core import Thumbnails, Verdict
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.report.explanation import Explanation


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `explain`."""
    parser = subparsers.add_parser("explain", help="say why one frame got its verdict")
    parser.add_argument("inspection", type=positive_int, metavar="ID", help="as `zsad query` shows")
    add_line_arguments(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="write the stored pictures there"
    )
    parser.set_defaults(run=_run_explain)


def _run_explain(args: argparse.Namespace) -> int:
    from daemon.report.explanation import explain, pictures

    with open_line(args) as (config, engine), engine.connect() as connection:
        found = explain(connection, args.inspection)
        images = pictures(connection, args.inspection) if args.pictures else None
    if found is None:
        raise ConfigError(
            f"there is no inspection {args.inspection}: `zsad query inspections` lists the newest"
        )
    written = _write_pictures(args.pictures, args.inspection, images) if args.pictures else []
    if args.json:
        Console().file.write(json.dumps(_as_json(found, written), indent=2) + "\n")
        return 0
    _print(found, config)
    if args.pictures:
        names = ", ".join(map(str, written)) or "none are stored for this inspection"
        Console(soft_wrap=True).print(f"pictures: {names}", markup=False, highlight=False)
    return 0


def _write_pictures(folder: Path, inspection_id: int, images: Thumbnails | None) -> list[Path]:
    if images is None:
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder} ({error.strerror}): name another") from error
    written = []
    for name, content in (
        ("photo.jpg", images.photo_jpeg),
        ("overlay.jpg", images.overlay_jpeg),
        ("map.png", images.map_png),
    ):
        path = folder / f"{inspection_id}-{name}"
        write_file(path, content)
        written.append(path)
    return written


def _as_json(found: "Explanation", written: list[Path]) -> dict[str, object]:
    values = {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in asdict(found).items()
        if key not in ("config", "policy", "calibration")
    }
    if found.calibration is not None:
        made = asdict(found.calibration)
        values["calibration"] = {**made, "created_utc": found.calibration.created_utc.isoformat()}
    else:
        values["calibration"] = None
    values["normalised_score"] = _normalised(found)
    values["config"] = None
    if found.config is not None:
        values["config"] = {
            "sha256": found.config.sha256,
            "file": found.config.file,
            "applied_utc": found.config.applied_utc.isoformat(),
        }
    values["roi"] = None if found.policy is None else found.policy.roi.model_dump(mode="json")
    values["pictures"] = [str(path) for path in written]
    return values


def _normalised(found: "Explanation") -> float | None:
    from daemon.inspection.decision import normalised_score

    if found.calibration is None or found.pred_score is None:
        return None
    return normalised_score(found.pred_score, found.calibration)


def _print(found: "Explanation", config: Config) -> None:
    from daemon.report.words import clean

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(found, config):
        table.add_row(name, Text(clean(value)))
    Console().print(table)


def _facts(found: "Explanation", config: Config) -> Iterator[tuple[str, str]]:
    yield "verdict", f"{found.verdict}: {_because(found)}"
    frame = f"{found.camera}, epoch {found.epoch}, number {found.seq}"
    yield "frame", frame + (f", part {found.part_id}" if found.part_id else "")
    yield "received", f"{found.received_utc.astimezone(config.zone):%Y-%m-%d %H:%M:%S %Z}"
    yield "category", found.category
    has_own = found.policy is not None and found.policy.checkpoint is not None
    own = f" (by categories.{found.category}.checkpoint)" if has_own else ""
    yield "model", f"{found.model_version}{own}"
    if found.pred_score is not None:
        normalised = _normalised(found)
        shown = "" if normalised is None else f" (normalised {normalised:.3f}; NG from 0.500)"
        yield "score", f"{found.pred_score:.4f}{shown}; highest map value {found.map_peak:.4f}"
    if found.ng_threshold is not None:
        yield (
            "thresholds",
            f"REVIEW from {found.review_threshold:.4f}, NG from {found.ng_threshold:.4f}, "
            f"regions from {found.map_threshold:.4f}",
        )
        yield "calibration", _origin(found, config)
    yield "where", _roi(found)
    for region in found.regions:
        yield (
            "region",
            f"at {region.x_px},{region.y_px}: {region.width_px} x {region.height_px} px, area "
            f"{region.area_px} px, peak {region.peak:.4f}",
        )
    yield "decided by", "; ".join(map(str, found.decided_by)) or "no line of the configuration"
    if found.config is not None:
        since = found.config.applied_utc.astimezone(config.zone)
        yield "configuration", f"{found.config.sha256[:12]}, in force since {since:%Y-%m-%d %H:%M}"
    else:
        yield "configuration", "not known: the verdict is older than the history of configurations"


def _because(found: "Explanation") -> str:
    if found.verdict is Verdict.ERROR:
        return f"{found.error_reason}, {found.error_detail}"
    if found.pred_score is None:
        return "no detector was loaded"
    if found.ng_threshold is None or found.review_threshold is None:
        return "the category had no thresholds yet"
    if found.pred_score >= found.ng_threshold:
        return "the score reaches the NG threshold"
    if found.pred_score >= found.review_threshold:
        return "the score lies between the two thresholds"
    return "the score lies below both thresholds"


def _origin(found: "Explanation", config: Config) -> str:
    from daemon.inspection.calibration import promise

    made = found.calibration
    if made is None:
        return "not stored any more"
    at = made.created_utc.astimezone(config.zone)
    text = (
        f"{made.source} ({made.n_frames} OK frames), {at:%Y-%m-%d %H:%M}; false rejects "
        f"{promise(made.ng_rate, made.confidence)}, REVIEW {made.review_rate:g}"
    )
    return text if made.is_supported else f"{text}; too few frames for that"


def _roi(found: "Explanation") -> str:
    if found.policy is None:
        return "not known"
    roi = found.policy.roi
    if roi.is_whole_frame:
        return "the whole frame"
    return f"inside {len(roi.include) or 'no'} and outside {len(roi.ignore)} polygons of `roi`"
