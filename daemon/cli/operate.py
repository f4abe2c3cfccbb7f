"""Commands for whoever looks after a daemon: is its configuration right, and how is it doing?"""

import argparse
import json
import signal
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape

from daemon.cli.status_tables import status_tables
from daemon.config.categories import CategoryConfig
from daemon.config.frames import FramesConfig
from daemon.config.line import Config, ShiftConfig
from daemon.config.training import TrainingConfig
from daemon.config_file import ConfigFileError, hide_password, load_config, shown
from daemon.errors import ConfigError
from daemon.status import (
    STATUS_FILE,
    StatusSnapshot,
    is_process_alive,
    read_status,
)

STALE_AFTER_S = 5.0
"""The daemon writes its status every second."""

WATCH_INTERVAL_S = 1.0


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check-config` and `status`."""
    parser = subparsers.add_parser("check-config", help="check a configuration file")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=_run_check_config)

    parser = subparsers.add_parser("status", help="show how the running daemon is doing")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--watch", action="store_true", help="refresh every second until Ctrl-C")
    parser.set_defaults(run=_run_status)


# --- check-config


def _run_check_config(args: argparse.Namespace) -> int:
    try:
        config = load_config(args.file)
        _refuse_missing_checkpoint(config)
    except ConfigError as error:
        if not args.json:
            raise
        problems = (
            [problem.as_json() for problem in error.problems]
            if isinstance(error, ConfigFileError)
            else [{"file": str(args.file), "message": str(error)}]
        )
        _print_json({"ok": False, "errors": problems})
        return 2
    if args.json:
        _print_json({"ok": True, "file": str(args.file), "config": shown(config)})
    else:
        Console(soft_wrap=True).print(_summary(args.file, config), highlight=False)
    return 0


def _refuse_missing_checkpoint(config: Config) -> None:
    """Find a mistyped folder now; what is in the files is checked when the daemon loads them."""
    named = [("model", config.model.checkpoint)]
    named += [(f"categories.{name}", each.checkpoint) for name, each in config.categories.items()]
    for section, folder in named:
        for name in ("card.json", "weights.safetensors"):
            if folder is not None and not (folder / name).is_file():
                raise ConfigError(
                    f"{section}.checkpoint: there is no {name} in {folder}: "
                    "name the folder that `zsad train` wrote, or remove the key"
                )


def _summary(path: Path, config: Config) -> str:
    lines = [
        f"[bold]{title if first else '':12}[/]{escape(line)}"
        for title, values in _summary_lines(path, config).items()
        for first, line in zip([True] + [False] * len(values), values, strict=False)
    ]
    return "\n".join(lines)


def _summary_lines(path: Path, config: Config) -> dict[str, list[str]]:
    model, queue, batch = config.model, config.queue, config.batch
    checkpoint = "embedded default" if model.checkpoint is None else str(model.checkpoint)
    return {
        "file": [f"{path} is valid"],
        "line": [f"{config.line} ({config.timezone})"],
        "sources": [
            f"{source.endpoint} ({source.socket}, {source.mode}"
            + (f", camera {source.camera})" if source.camera else ")")
            for source in config.sources
        ],
        "cameras": [
            f"{name} ({camera.category or 'the frame names its category'})"
            for name, camera in config.cameras.items()
        ],
        "categories": [
            _category_line(name, category) for name, category in config.categories.items()
        ],
        "model": [
            "none (commissioning): every verdict is LEARNING"
            if model.commissioning
            else f"{checkpoint} on {model.device}"
        ],
        "batches": [f"up to {batch.max_batch_size} frames or {batch.max_queue_delay_ms:g} ms"],
        "queue": [f"up to {queue.max_frames} frames, then {queue.drop_policy}"],
        "database": [hide_password(config.storage.url)],
        "frames": [_frames_line(config.frames)],
        "training": [_training_line(config.training)],
        "shifts": _shift_hours(config.shifts),
        "run_dir": [str(config.run_dir)],
    }


def _frames_line(frames: FramesConfig | None) -> str:
    if frames is None:
        return "whole frames are not kept"
    kept: list[str] = [*frames.keep]
    if frames.keep_one_ok_of is not None:
        kept.append(f"one of {frames.keep_one_ok_of} OK")
    return f"{', '.join(kept)} in {frames.dir} for {frames.days} days"


def _training_line(training: TrainingConfig | None) -> str:
    if training is None:
        return "off"
    return (
        f"every night from {training.window_start:%H:%M} to {training.window_end:%H:%M}, models in "
        f"{training.models_dir}, promotion {training.promote}"
        + "".join(f", {method} by {file}" for method, file in training.recipes.items())
    )


def _share(rate: float) -> str:
    return f"{rate:.1%}" if rate >= 0.001 else f"{rate * 1e6:g} ppm"


def _category_line(name: str, category: CategoryConfig) -> str:
    parts = [
        category.class_name,
        f"at most {_share(category.review_rate)} of OK parts to review, "
        f"{_share(category.ng_rate)} NG",
    ]
    if category.checkpoint is not None:
        parts.append(f"by a model of its own, {category.checkpoint}")
    if category.confidence is not None:
        parts.append(f"with {100 * category.confidence:g} % confidence")
    if not category.roi.is_whole_frame:
        parts.append("only in the region of interest")
    if category.min_defect_px is None or category.tiling == "never":
        parts.append("frames looked at as a whole")
    else:
        parts.append(
            f"frames cut into at most {category.max_tiles} tiles to show defects of "
            f"{category.min_defect_px} px"
        )
    if category.references:
        parts.append(f"{category.references} reference frames")
    if category.learn_frames is None:
        parts.append("LEARNING until `zsad calibrate`")
    elif category.references:
        parts.append(f"learns from the {category.learn_frames} frames after its references")
    else:
        parts.append(f"learns from the first {category.learn_frames} frames")
    return f"{name}: {'; '.join(parts)}"


def _shift_hours(shifts: tuple[ShiftConfig, ...]) -> list[str]:
    """`early 06:00-14:00`; a shift ends where the next begins, the last on the next day."""
    ordered = sorted(shifts, key=lambda shift: shift.start)
    ends = [shift.start for shift in (*ordered[1:], ordered[0])]
    return [
        f"{shift.name} {shift.start:%H:%M}-{end:%H:%M}"
        for shift, end in zip(ordered, ends, strict=True)
    ]


# --- status


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at the status file gave; `trouble` is set when no daemon is running."""

    snapshot: StatusSnapshot | None
    trouble: str | None


def _run_status(args: argparse.Namespace) -> int:
    path = load_config(args.config).run_dir / STATUS_FILE
    if args.watch and not args.json:
        return _watch(path)
    look = _look(path, datetime.now(UTC))
    if args.json:
        status = None if look.snapshot is None else look.snapshot.model_dump(mode="json")
        _print_json({"running": look.trouble is None, "trouble": look.trouble, "status": status})
    else:
        Console().print(_render(look))
    return 0 if look.trouble is None else 1


def _watch(path: Path) -> int:
    stop = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        look = _look(path, datetime.now(UTC))
        with Live(_render(look), auto_refresh=False) as live:
            while not stop.wait(WATCH_INTERVAL_S):
                look = _look(path, datetime.now(UTC))
                live.update(_render(look), refresh=True)
    finally:
        signal.signal(signal.SIGINT, previous)
    return 0 if look.trouble is None else 1


def _look(path: Path, now_utc: datetime) -> _Look:
    try:
        snapshot = read_status(path)
    except FileNotFoundError:
        return _Look(None, f"the daemon is not running: there is no {path}")
    except PermissionError:
        return _Look(None, f"{path} may not be read: run this as root or as the daemon's user")
    except (OSError, ValidationError, ValueError) as error:
        return _Look(None, f"{path} cannot be read: {error}")
    age_s = (now_utc - snapshot.written_utc).total_seconds()
    if not is_process_alive(snapshot.pid):
        trouble = (
            f"the daemon is not running: process {snapshot.pid} is gone; "
            f"it last wrote {age_s:.0f} s ago, in state {snapshot.state}"
        )
        return _Look(snapshot, trouble)
    if age_s > STALE_AFTER_S:
        trouble = (
            f"the daemon does not answer: its status is {age_s:.0f} s old (limit "
            f"{STALE_AFTER_S:.0f} s), though a process {snapshot.pid} exists; see its log"
        )
        return _Look(snapshot, trouble)
    return _Look(snapshot, None)


def _render(look: _Look) -> Group:
    parts: list[RenderableType] = []
    if look.trouble is not None:
        parts.append(f"[bold red]{escape(look.trouble)}[/]")
    if look.snapshot is not None:
        parts.append(status_tables(look.snapshot))
    return Group(*parts)


def _print_json(value: object) -> None:
    # not Console.print_json: it colours and wraps on a terminal, and scripts read this
    Console(soft_wrap=True).print(json.dumps(value, indent=2), markup=False, highlight=False)
