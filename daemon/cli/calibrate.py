"""`zsad calibrate`: thresholds of a category from OK parts, stored frames or images."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from daemon.cli.line_database import add_line_arguments, open_line
from daemon.config.categories import CategoryConfig
from daemon.config.line import Config
from daemon.core import Calibration
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.inspection.detector_slot import DetectorSlot


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `calibrate`."""
    parser = subparsers.add_parser(
        "calibrate",
        help="set a category's thresholds from OK parts; a running daemon takes them over",
    )
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        help="images of OK parts, or folders of them; none: the stored LEARNING frames of the "
        "category, which must all have been OK parts",
    )
    add_line_arguments(parser)
    parser.add_argument("--category", required=True)
    parser.set_defaults(run=_run_calibrate)


def _run_calibrate(args: argparse.Namespace) -> int:
    from daemon.inspection.detector_slot import DetectorSlot
    from daemon.storage import repository
    from daemon.storage.database import write_transaction

    with open_line(args, may_create=True) as (config, engine):
        policy = _policy(config, args.category)
        slot = DetectorSlot(config.model)
        if args.images:
            scores, peaks = _score_images(slot, args.images, policy.class_name)
            source = f"{len(scores)} images"
        else:
            with engine.connect() as connection:
                stored = repository.learning_scores(connection, args.category, slot.version)
            scores, peaks = list(stored.pred_scores), list(stored.map_peaks)
            source = f"{len(scores)} stored LEARNING frames"
        made = _calibrate(args.category, policy, slot.version, scores, peaks, source)
        with write_transaction(engine) as connection:
            repository.ensure_model_version(
                connection,
                name=slot.version,
                method=slot.method,
                backbone=slot.backbone,
                card_json=slot.card_json,
                now=made.created_utc,
            )
            repository.add_calibration(connection, made)
    _print(Console(soft_wrap=True), made)
    return 0


def _calibrate(
    category: str,
    policy: CategoryConfig,
    model_version: str,
    scores: list[float],
    peaks: list[float],
    source: str,
) -> Calibration:
    from daemon.inspection.calibration import calibrate

    try:
        return calibrate(
            category=category,
            model_version=model_version,
            scores=scores,
            map_peaks=peaks,
            review_rate=policy.review_rate,
            ng_rate=policy.ng_rate,
            source=source,
            now=datetime.now(UTC),
        )
    except ValueError as error:
        raise ConfigError(f"no calibration from {source}: {error}") from error


def _policy(config: Config, category: str) -> CategoryConfig:
    if category not in config.categories:
        known = ", ".join(sorted(config.categories))
        raise ConfigError(f"category {category!r} is not configured; configured are: {known}")
    return config.categories[category]


def _score_images(
    slot: "DetectorSlot", paths: list[Path], class_name: str
) -> tuple[list[float], list[float]]:
    """Score and map peak of every image; one that does not open stops the command."""
    from zsad.data import IMAGE_SUFFIXES
    from zsad.image_files import DataError, load_image

    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        # in a folder other files are passed over; one that was named must open
        if not path.is_dir() or file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise ConfigError(f"no image in {', '.join(str(path) for path in paths)}")
    scores, peaks = [], []
    for file in track(files, description="Scoring OK parts", console=Console(stderr=True)):
        try:
            image = load_image(file)
        except DataError as error:
            raise ConfigError(str(error)) from error
        ((score, anomaly_map),) = slot.infer([image], [class_name])
        scores.append(score)
        peaks.append(float(anomaly_map.max()))
    return scores, peaks


def _print(console: Console, made: Calibration) -> None:
    from daemon.inspection.calibration import frames_needed

    console.print(
        f"{made.category}: REVIEW from {made.review_threshold:.4f}, NG from "
        f"{made.ng_threshold:.4f} ({made.n_frames} OK frames, model {made.model_version})"
    )
    if not made.is_supported:
        console.print(
            f"Only {made.n_frames} OK frames: ng_rate {made.ng_rate} needs "
            f"{frames_needed(made.ng_rate)}. Until then NG starts just above the highest OK "
            f"score; expect up to {1 / (made.n_frames + 1):.1%} false rejects."
        )
