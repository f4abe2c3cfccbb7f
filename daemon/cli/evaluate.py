"""`zsad test`: a detector's metrics on a labelled data set. Also brings in `zsad predict`."""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from daemon.cli import predict
from daemon.cli.arguments import positive_int
from daemon.cli.datasets import add_dataset_argument
from daemon.cli.model_arguments import (
    add_model_arguments,
    add_tiling_arguments,
    named_model,
    named_tiling,
)
from daemon.cli.output import make_parent, progress_bar, warn, write_file
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from zsad.data import Sample
    from zsad.evaluate import EvalReport
    from zsad.predictor import Predictor
    from zsad.reference_bank import ReferenceBank

_ONE_LINE_TITLES_WIDTH = 120
_SHEET_ENTRIES = 12


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `test` and `predict`."""
    parser = subparsers.add_parser("test", help="measure a detector on a labelled data set")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")
    kind = parser.add_mutually_exclusive_group(required=True)
    add_dataset_argument(kind)
    kind.add_argument(
        "--layout",
        choices=("mvtec", "folder", "jsonl", "meta"),
        help="mvtec: ROOT/<category>/test/<defect>, ground_truth/<defect>; folder: normal, "
        "abnormal, mask; jsonl: ROOT/test.jsonl (AA-CLIP); meta: ROOT/meta.json (AnomalyCLIP)",
    )
    parser.add_argument(
        "--allow-other-counts",
        action="store_true",
        help="with --dataset: measure what is there when images are missing or too many",
    )
    add_model_arguments(parser)
    add_tiling_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the metrics as JSON")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the table as Markdown")
    parser.add_argument(
        "--sheet", type=Path, metavar="OUT.png", help="write images, masks and heat maps to look at"
    )
    parser.add_argument(
        "--limit-per-category",
        type=positive_int,
        metavar="N",
        help="measure only N images of each category: quick, but not the data set's figures",
    )
    parser.add_argument(
        "--test-set-statistics",
        action=argparse.BooleanOptionalAction,
        help="rank scores that use minimum and maximum of the category's whole test set, as "
        "published for AA-CLIP; a line cannot have them, and it takes twice as long (default: "
        "as the method's preset)",
    )
    parser.add_argument(
        "--references",
        type=positive_int,
        default=0,
        metavar="N",
        help="show the detector N good images of each category first: of its training images, "
        "else of its test images, which are then not tested (0)",
    )
    parser.set_defaults(run=_run_test)
    predict.add_commands(subparsers)


def _run_test(args: argparse.Namespace) -> int:
    for path in (args.json, args.markdown, args.sheet):
        make_parent(path)
    from zsad.reproduce.run import with_published_names

    samples = read_samples(args)
    predictor = named_model(args)
    named = with_published_names(samples, predictor.detector.config, args.dataset or "")
    return measure(predictor, named, args, Console())


def read_samples(args: argparse.Namespace) -> "list[Sample]":
    """Read and check the data set that the arguments name, before a detector is loaded.

    Raises:
        ConfigError: it cannot be used.
    """
    from zsad.data import check_samples, limit_per_category
    from zsad.datasets.catalogue import named_dataset
    from zsad.datasets.layouts import read_dataset
    from zsad.image_files import DataError

    try:
        if args.dataset is not None:
            samples = named_dataset(args.dataset).read(
                args.data, warn=warn, allow_other_counts=args.allow_other_counts
            )
        else:
            samples = read_dataset(args.data, args.layout, warn=warn)
        if args.limit_per_category is not None:
            kept = limit_per_category(samples, args.limit_per_category)
            warn(f"{_subsampling(args)}: {len(kept)} of {len(samples)} images")
            samples = kept
        with progress_bar("Checking files") as advance:
            check_samples(samples, warn=warn, progress=advance)
    except DataError as error:
        raise ConfigError(str(error)) from error
    return samples


def measure(
    predictor: "Predictor", samples: "Sequence[Sample]", args: argparse.Namespace, console: Console
) -> int:
    """Evaluate, print the table, write what was asked for.

    Raises:
        ConfigError: an image turned out to be damaged, or the detector has no scores of the kind
            that was asked for.
    """
    from zsad.evaluate import evaluate
    from zsad.image_files import DataError

    uses_whole_sets = _uses_whole_sets(predictor, args)
    try:
        samples, banks = _with_references(predictor, samples, args)
        with progress_bar("Testing") as advance:
            report = evaluate(
                predictor,
                samples,
                batch_size=args.batch,
                warn=warn,
                progress=advance,
                test_set_statistics=uses_whole_sets,
                banks=banks,
                tiling=named_tiling(args),
            )
    except DataError as error:
        raise ConfigError(str(error)) from error
    title = _title(predictor, args)
    sheet_title = title  # it shows what the detector says of each image by itself
    if uses_whole_sets:
        title += " - SCORES DEPEND ON THE OTHER IMAGES: scaled over each category's test set"
    console.print(_table(report, title, console.width))
    if args.json is not None:
        write_file(args.json, (json.dumps(report.to_json(), indent=2) + "\n").encode())
    if args.markdown is not None:
        write_file(args.markdown, f"{title}\n\n{report.to_markdown()}".encode())
    if args.sheet is not None:
        write_file(args.sheet, _sheet(predictor, samples, banks, args, sheet_title))
    for path in (args.json, args.markdown, args.sheet):
        if path is not None:
            console.print(f"written: {path}", markup=False, soft_wrap=True)
    return 0


def _title(predictor: "Predictor", args: argparse.Namespace) -> str:
    """What was measured, and how."""
    name = args.dataset or args.data.resolve().name
    title = f"{name}, {predictor.version}, {predictor.detector.input_size} px"
    if args.precision != "fp32":
        title += f", {args.precision}"
    if args.references:
        title += f", {args.references} references"
    if args.min_defect_px is not None:
        title += f", tiles for defects of {args.min_defect_px} px"
    if args.limit_per_category is not None:
        title += f" - {_subsampling(args)}"
    return title


def _with_references(
    predictor: "Predictor", samples: "Sequence[Sample]", args: argparse.Namespace
) -> "tuple[Sequence[Sample], dict[str, ReferenceBank]]":
    """What is left to test, and a bank of every category; everything and none without references.

    Raises:
        ConfigError: references do not go with scores over whole test sets.
        DataError: there are too few good images.
    """
    from zsad.datasets.layouts import read_dataset
    from zsad.reference_sets import hold_out_references, learn_banks

    if not args.references:
        return samples, {}
    if _uses_whole_sets(predictor, args):
        raise ConfigError(
            "--references is for scores that a line can have: add --no-test-set-statistics"
        )
    has_training = args.layout == "mvtec" and any(args.data.glob("*/train"))
    training = read_dataset(args.data, "mvtec", "train", warn=warn) if has_training else []
    references, tested = hold_out_references(samples, training, args.references, seed=0)
    with progress_bar("Learning references") as advance:
        banks = learn_banks(
            predictor,
            references,
            batch_size=args.batch,
            progress=advance,
            tiling=named_tiling(args),
        )
    return tested, banks


def _uses_whole_sets(predictor: "Predictor", args: argparse.Namespace) -> bool:
    """What the arguments say, else the method's preset."""
    uses_them = args.test_set_statistics
    if uses_them is None:
        uses_them = predictor.detector.ranks_whole_sets
    if uses_them and args.min_defect_px is not None:
        raise ConfigError(
            "--min-defect-px is for scores that a line can have: add --no-test-set-statistics"
        )
    if args.test_set_statistics and not predictor.detector.has_whole_set_scores:
        raise ConfigError(
            f"--test-set-statistics: {predictor.version} has no scores that use them; leave it out"
        )
    return bool(uses_them)


def _subsampling(args: argparse.Namespace) -> str:
    return f"SUBSAMPLED to {args.limit_per_category} images a category, not the set's own figures"


def _table(report: "EvalReport", title: str, width: int) -> Table:
    from zsad.evaluate import METRIC_TITLES, percent

    is_wide = width >= _ONE_LINE_TITLES_WIDTH
    table = Table(
        title=f"{title} (percent)",
        box=box.SIMPLE_HEAD,
        padding=(0, 1 if is_wide else 0),
        show_footer=True,
    )
    table.add_column("category", footer="mean", overflow="fold")
    table.add_column("normal", justify="right")
    table.add_column("anom.", justify="right")
    for key, mean in report.mean().items():
        word = METRIC_TITLES[key]
        header = word if is_wide else word.replace("-", "-\n").replace(" ", "\n")
        table.add_column(header, footer=percent(mean), justify="right", no_wrap=True)
    for name, result in report.categories.items():
        counts = (str(result.n_normal), str(result.n_anomalous))
        table.add_row(name, *counts, *(percent(value) for value in result.values().values()))
    return table


def _sheet(
    predictor: "Predictor",
    samples: "Sequence[Sample]",
    banks: "Mapping[str, ReferenceBank]",
    args: argparse.Namespace,
    title: str,
) -> bytes:
    """A PNG of a few samples of each category with their maps."""
    from zsad.heatmap import SheetEntry, contact_sheet, encode_png
    from zsad.image_files import load_image, load_mask
    from zsad.tiled_prediction import predict_tiled

    entries = []
    shown = _shown_samples(samples)
    for start in range(0, len(shown), args.batch):
        chunk = shown[start : start + args.batch]
        images = [load_image(sample.image_path) for sample in chunk]
        found = predict_tiled(
            predictor,
            images,
            [sample.class_name for sample in chunk],
            [named_tiling(args)] * len(chunk),
            [banks.get(sample.category) for sample in chunk],
            max_batch=args.batch,
        )
        for sample, image, (score, anomaly_map) in zip(chunk, images, found, strict=True):
            no_defect = None if sample.is_anomalous else np.zeros(image.shape[:2], np.bool_)
            entries.append(
                SheetEntry(
                    image=image,
                    mask=load_mask(sample.mask_path) if sample.mask_path else no_defect,
                    anomaly_map=anomaly_map.here(),
                    category=sample.category,
                    defect=sample.defect,
                    is_anomalous=sample.is_anomalous,
                    score=score,
                )
            )
    return encode_png(contact_sheet(entries, title=title))


def _shown_samples(samples: "Sequence[Sample]") -> "list[Sample]":
    """About a dozen samples, of every category, a quarter of them normal."""
    from zsad.data import limit_per_category

    n_each = max(2, _SHEET_ENTRIES // len({sample.category for sample in samples}))
    normal = [sample for sample in samples if not sample.is_anomalous]
    kept = limit_per_category(normal, max(1, n_each // 4))
    n_left = n_each - max(Counter(sample.category for sample in kept).values(), default=0)
    anomalous = [sample for sample in samples if sample.is_anomalous]
    kept += limit_per_category(anomalous, n_left)
    return sorted(kept, key=lambda sample: (sample.category, sample.is_anomalous))
