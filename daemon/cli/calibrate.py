"""`zsad calibrate`: thresholds of a category from OK parts, stored frames or images."""

import argparse
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from daemon.cli.calibrated import print_calibration, print_detection, print_measures
from daemon.cli.line_database import add_line_arguments, open_line
from daemon.config.categories import CategoryConfig
from daemon.config.line import Config
from daemon.core import Calibration, Image, with_references
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.inspection.detector_slot import DetectorSlot
    from daemon.inspection.references import References
    from daemon.inspection.sanity import Measures
    from daemon.storage.frame_files import KeptFile


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
    parser.add_argument(
        "--references",
        metavar="N|FOLDER",
        help="make the category's reference bank anew: of N of the images, which are then not "
        "used for the thresholds, or of the images in another folder",
    )
    parser.add_argument(
        "--model",
        metavar="VERSION",
        help="of another model than the active one, as `zsad model list` shows it",
    )
    parser.add_argument(
        "--ng-examples",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="images of defective parts, or folders of them: print how many would be caught",
    )
    parser.add_argument(
        "--catch",
        type=_share,
        metavar="SHARE",
        help="with --ng-examples: lower the REVIEW threshold until this share of them is caught",
    )
    parser.set_defaults(run=_run_calibrate)


def _run_calibrate(args: argparse.Namespace) -> int:
    from daemon.inspection.calibration import with_review_that_catches
    from daemon.inspection.detector_slot import DetectorSlot
    from daemon.model_rows import register
    from daemon.storage import config_history, frame_files, repository
    from daemon.storage.database import write_transaction
    from daemon.training.stored_model import configured_for

    if args.catch is not None and not args.ng_examples:
        raise ConfigError("--catch is a share of --ng-examples: name images of defective parts")
    with open_line(args, may_create=True) as (config, engine):
        policy = _policy(config, args.category)
        _refuse_misfit(args, policy)
        files, references = _split(_image_files(args.images), args.references)
        slot = DetectorSlot(
            configured_for(config, engine, args.model),
            {args.category: policy},
            max_batch=config.batch.max_batch_size,
        )
        if references:
            _learn(slot, args.category, policy, references)
        model = slot.serving(policy)
        version = slot.version_of(args.category, policy)
        if version == with_references(model.version, None):
            raise ConfigError(
                f"category {args.category!r} wants {policy.references} references and has no bank "
                f"yet: add --references {policy.references} or --references FOLDER"
            )
        measured: list[Measures] = []
        if files:
            product = (args.category, policy)
            scores, peaks = _score_images(slot, files, product, "Scoring OK parts", measured)
            source = f"{len(scores)} images"
        else:
            with engine.connect() as connection:
                since = config_history.recipe_since(
                    connection, config.line, args.category, policy.recipe
                )
                stored = repository.learning_scores(connection, args.category, version, since)
            scores, peaks = list(stored.pred_scores), list(stored.map_peaks)
            source = f"{len(scores)} stored LEARNING frames"
        made = _calibrate(args.category, policy, version, scores, peaks, source)
        ng_scores = _ng_scores(slot, args, policy)
        if ng_scores and args.catch is not None:
            made = with_review_that_catches(made, scores, ng_scores, args.catch)
        if references:
            _keep(model.references, args.category)
        copies = _keep_copies(config, args.category, [*files, *references])
        with write_transaction(engine) as connection:
            register(connection, model, made.created_utc)
            repository.add_calibration(connection, made)
            frame_files.add_calibration_images(
                connection, config.line, args.category, copies, made.created_utc
            )
    console = Console(soft_wrap=True)
    print_calibration(console, made)
    print_measures(console, measured)
    if ng_scores:
        print_detection(console, made, ng_scores)
    return 0


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 0.95")
    return value


def _ng_scores(
    slot: "DetectorSlot", args: argparse.Namespace, policy: CategoryConfig
) -> list[float]:
    if not args.ng_examples:
        return []
    files = _image_files(args.ng_examples)
    return _score_images(slot, files, (args.category, policy), "Scoring NG examples", [])[0]


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
            policy=policy,
            model_version=model_version,
            scores=scores,
            map_peaks=peaks,
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


def _refuse_misfit(args: argparse.Namespace, policy: CategoryConfig) -> None:
    if args.model is not None and policy.checkpoint is not None:
        raise ConfigError(
            f"--model: category {args.category!r} has a model of its own, {policy.checkpoint}; "
            "its thresholds belong to that one"
        )
    if args.references is None:
        return
    if not policy.references:
        raise ConfigError(
            f"--references: the configuration says references: 0 for {args.category!r}, so the "
            "daemon would not use them; set it first"
        )
    if not args.images:
        raise ConfigError(
            "--references needs images of OK parts too: thresholds of a new bank come from other "
            "frames than its own, and stored ones were scored without it"
        )


def _image_files(paths: list[Path]) -> list[Path]:
    """Named files and those in folders; in a folder other files are passed over."""
    from zsad.data import IMAGE_SUFFIXES

    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        # one that was named must open
        if not path.is_dir() or file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if paths and not files:
        raise ConfigError(f"no image in {', '.join(str(path) for path in paths)}")
    return files


def _split(files: list[Path], references: str | None) -> tuple[list[Path], list[Path]]:
    """(images for the thresholds, images for the bank); N are drawn evenly from the first."""
    if references is None:
        return files, []
    if not references.isdecimal():
        return files, _image_files([Path(references)])
    count = int(references)
    if not 2 <= count < len(files):
        raise ConfigError(
            f"--references {count}: needs at least 2 references and images beyond them, "
            f"{len(files)} were given"
        )
    taken = {index * len(files) // count for index in range(count)}
    rest = [file for index, file in enumerate(files) if index not in taken]
    return rest, [files[index] for index in sorted(taken)]


def _learn(slot: "DetectorSlot", category: str, policy: CategoryConfig, files: list[Path]) -> None:
    from zsad.reference_bank import BankError
    from zsad.tiling import TilingError

    least_side = slot.serving(policy).least_side(policy)
    images = (_load(file, least_side)[0] for file in _tracked(files, "Learning references"))
    try:
        slot.learn(category, policy, images)
    except (BankError, TilingError) as error:
        raise ConfigError(f"no reference bank: {error}") from error


def _keep(banks: "References", category: str) -> None:
    try:
        banks.keep(category)
    except OSError as error:
        raise ConfigError(
            f"model.references_dir: the bank cannot be written: {error.strerror} "
            f"({error.filename}); nothing was changed"
        ) from error


def _keep_copies(config: Config, category: str, files: list[Path]) -> "list[KeptFile]":
    """Copies of the images of OK parts, where whole frames are kept: later models need them."""
    from daemon.storage.frame_files import KeptFile
    from daemon.storage.frame_folder import calibration_path, digest, write_durably

    if config.frames is None:
        return []
    copies: dict[str, KeptFile] = {}
    for file in files:
        try:
            content = file.read_bytes()
            sha256 = digest(content)
            path = calibration_path(config.line, category, sha256, file.suffix[1:] or "img")
            write_durably(config.frames.dir, path, content)
        except OSError as error:
            raise ConfigError(
                f"frames.dir: {file} cannot be copied to {config.frames.dir}: {error.strerror}; "
                "nothing was changed"
            ) from error
        copies[sha256] = KeptFile(str(path), len(content), sha256)
    return list(copies.values())


def _score_images(
    slot: "DetectorSlot",
    files: list[Path],
    product: tuple[str, CategoryConfig],
    description: str,
    measured: "list[Measures]",
) -> tuple[list[float], list[float]]:
    """Score and map peak of every image, as the daemon would see it.

    One that does not open, or that the daemon would not inspect, stops the command.

    Args:
        measured: What each image measures is added here.
    """
    from daemon.inspection.roi import RoiMasks
    from daemon.inspection.sanity import measure, unfit
    from zsad.tiling import TilingError

    masks, least_side = RoiMasks(), slot.serving(product[1]).least_side(product[1])
    scores, peaks = [], []
    for file in _tracked(files, description):
        image, taken_px = _load(file, least_side)
        if problem := unfit(image, product[1].sanity, taken_px=taken_px):
            raise ConfigError(f"{file}: the daemon would not inspect it: {problem.detail}")
        measured.append(measure(image, with_sharpness=True))
        try:
            ((score, anomaly_map),) = slot.infer([image], [product])
            score, anomaly_map = masks.apply(product[1].roi, score, anomaly_map)
        except (TilingError, ValueError) as error:
            raise ConfigError(f"{file}: {error}") from error
        scores.append(score)
        peaks.append(anomaly_map.peak)
    return scores, peaks


def _tracked(files: list[Path], description: str) -> Iterable[Path]:
    return track(files, description=description, console=Console(stderr=True))


def _load(file: Path, least_side: int | None) -> tuple[Image, tuple[int, int]]:
    """An image as the daemon would decode it, and its height and width in the file."""
    from zsad.image_files import DataError, image_size, load_image

    try:
        width, height = image_size(file)
        return load_image(file, least_side=least_side), (height, width)
    except DataError as error:
        raise ConfigError(str(error)) from error
