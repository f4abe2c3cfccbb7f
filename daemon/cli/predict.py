"""`zsad predict`: scores and heat maps of single images.

Refuses to decide OK or NG: that needs a calibrated category, which the daemon has.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from daemon.cli.model_arguments import (
    add_model_arguments,
    add_tiling_arguments,
    named_model,
    named_tiling,
)
from daemon.cli.output import make_parent, progress_bar, warn, write_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zsad.predictor import Predictor
    from zsad.tiling import Tiling

EXIT_FAILED = 1
Row = dict[str, str | float]
"""One image of the JSON: image, pred_score, map_peak, heatmap."""


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `predict`."""
    parser = subparsers.add_parser("predict", help="score single images of one category")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--category", required=True, metavar="NAME", help="the product, as a noun: metal_nut"
    )
    add_model_arguments(parser)
    add_tiling_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the scores as JSON")
    parser.add_argument(
        "--heatmaps",
        type=Path,
        metavar="DIR",
        help="write each image with its heat map over it; colours span map values 0 to 1",
    )
    parser.set_defaults(run=_run_predict)


def _run_predict(args: argparse.Namespace) -> int:
    return predict_files(named_model(args), args, Console())


def predict_files(predictor: "Predictor", args: argparse.Namespace, console: Console) -> int:
    """Score every image that can be read.

    Returns:
        0, or 1 when an image could not be read: it is reported and the others are scored.
    """
    from zsad.data import prompt_noun

    make_parent(args.json)
    if args.heatmaps is not None:
        make_parent(args.heatmaps / "heatmap.png")
    noun = prompt_noun(args.category)
    rows, errors = _score(predictor, args, noun)
    if rows:
        _print(console, f"{args.category}, {predictor.version}", "score   peak    image")
    for row in rows:
        _print(console, f"{row['pred_score']:.4f}  {row['map_peak']:.4f}  {row['image']}")
    if args.json is not None:
        contents = {
            "model": predictor.version,
            "category": args.category,
            "class_name": noun,
            "images": rows,
            "errors": errors,
        }
        write_file(args.json, (json.dumps(contents, indent=2) + "\n").encode())
    for failed in errors:
        warn(failed["error"])
    if errors:
        warn(f"{len(errors)} of {len(args.images)} images could not be scored")
    return EXIT_FAILED if errors else 0


def _score(
    predictor: "Predictor", args: argparse.Namespace, noun: str
) -> tuple[list[Row], list[dict[str, str]]]:
    """Batch after batch; heat maps are written as they come. Returns (rows, errors)."""
    from zsad.tiled_prediction import predict_tiled

    tiling = named_tiling(args)
    rows: list[Row] = []
    errors: list[dict[str, str]] = []
    taken: set[str] = set()
    with progress_bar("Scoring") as advance:
        for start in range(0, len(args.images), args.batch):
            chunk = args.images[start : start + args.batch]
            images, unreadable = _load(chunk, tiling, predictor.detector.input_size)
            errors += unreadable
            if images:
                found = predict_tiled(
                    predictor,
                    [image for _, image in images],
                    [noun] * len(images),
                    [tiling] * len(images),
                    max_batch=args.batch,
                )
                for (path, image), (score, anomaly_map) in zip(images, found, strict=True):
                    row: Row = {"image": str(path), "pred_score": score}
                    row["map_peak"] = anomaly_map.peak
                    if args.heatmaps is not None:
                        target = args.heatmaps / _free_name(path, taken)
                        _write_heatmap(target, image, anomaly_map.here())
                        row["heatmap"] = str(target)
                    rows.append(row)
            advance(start + len(chunk), len(args.images))
    return rows, errors


def _load(
    paths: list[Path], tiling: "Tiling | None", input_size: int
) -> "tuple[list[tuple[Path, NDArray[np.uint8]]], list[dict[str, str]]]":
    """(images that can be scored, what is wrong with the others)."""
    from zsad.image_files import DataError, load_image
    from zsad.tiled_prediction import plan
    from zsad.tiling import TilingError

    images, errors = [], []
    for path in paths:
        try:
            image = load_image(path)
            plan(tiling, image, input_size)
            images.append((path, image))
        except DataError as error:
            errors.append({"image": str(path), "error": str(error)})
        except TilingError as error:
            errors.append({"image": str(path), "error": f"{path}: {error}"})
    return images, errors


def _write_heatmap(
    path: Path, image: "NDArray[np.uint8]", anomaly_map: "NDArray[np.float32]"
) -> None:
    from zsad.heatmap import encode_png, heat_overlay

    write_file(path, encode_png(heat_overlay(image, anomaly_map, low=0.0, high=1.0)))


def _free_name(path: Path, taken: set[str]) -> str:
    """<stem>.png, or <stem>-2.png and so on when images of several folders share a name."""
    name, number = f"{path.stem}.png", 1
    while name in taken:
        number += 1
        name = f"{path.stem}-{number}.png"
    taken.add(name)
    return name


def _print(console: Console, *lines: str) -> None:
    """Unwrapped and unstyled, so that long paths stay whole for other programs."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
