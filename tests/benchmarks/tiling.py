"""What tiles bring and cost: detection and CPU time a frame against the number of tiles.

    python tests/benchmarks/tiling.py SET --min-defect-px 60 30 --images 20
    python tests/benchmarks/tiling.py SET --mosaic 4 --min-defect-px 12 --references 16

SET is a folder in layout mvtec. With --mosaic K a frame is K x K crops of CELL pixels of good
images, and a bad frame has one crop with a small real defect among them: large frames with small
defects are in no free set that has good images too. All rows are over the same frames; pixel
figures are at FRAME_PX, AUPRO is the exact one. Cost is CPU time in this process, best of the
frames, and its ratio to the whole frame (one pass of the network). A set that the checkpoint was
trained on is not unseen.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from zsad.data import Sample, limit_per_category
from zsad.datasets.layouts import read_dataset
from zsad.image_files import load_image, load_mask
from zsad.metrics import PixelScores, binary_metrics
from zsad.predictor import Predictor, load_predictor
from zsad.reference_bank import ReferenceBank
from zsad.reference_learning import learn_references
from zsad.tiled_prediction import plan, predict_tiled
from zsad.tiling import Tiling

CELL = 250
SMALL_DEFECT_PX = 60
FRAME_PX = 1000
BATCH = 8


@dataclass(frozen=True)
class Frame:
    """mask None: a bad frame without a pixel label."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    is_bad: bool


def main() -> None:
    """Print one table a category."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", type=Path)
    parser.add_argument("--min-defect-px", type=int, nargs="+", required=True)
    parser.add_argument("--images", type=int, default=40, help="frames of each category")
    parser.add_argument("--references", type=int, default=0)
    parser.add_argument("--mosaic", type=int, metavar="K")
    parser.add_argument("--checkpoint", type=Path, help="default: the embedded detector")
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = load_predictor(args.checkpoint, "cpu")
    samples = read_dataset(args.set, "mvtec", warn=lambda _: None)
    for category in sorted({sample.category for sample in samples}):
        members = [sample for sample in samples if sample.category == category]
        table(predictor, category, members, args)


def table(
    predictor: Predictor, category: str, members: list[Sample], args: argparse.Namespace
) -> None:
    """Whole frame first, then each smallest defect."""
    name = members[0].class_name
    if args.mosaic:
        n_good = args.references + args.images // 2
        frames = list(mosaics(members, args.mosaic, n_good, args.images // 2))
    else:
        normal = [sample for sample in members if not sample.is_anomalous][: args.references]
        tested = [sample for sample in members if sample not in normal]
        kept = normal + limit_per_category(tested, args.images)
        frames = [frame_of(sample) for sample in kept]
    references, tested = frames[: args.references], frames[args.references :]
    n_bad = sum(frame.is_bad for frame in tested)
    height, width = tested[0].image.shape[:2]
    say(
        f"\n{category}: {len(tested) - n_bad} good and {n_bad} bad frames such as {width} x "
        f"{height} px, {len(references)} references, {predictor.version}\n"
    )
    say("| min_defect_px | tiles | I-AUROC | P-AUROC | AUPRO | CPU s a frame | ratio |")
    say("|---|---:|---:|---:|---:|---:|---:|")
    floor_s = None
    for min_defect_px in (None, *args.min_defect_px):
        tiling = None if min_defect_px is None else Tiling(min_defect_px, max_tiles=400)
        bank = learn(predictor, references, tiling, name) if references else None
        figures, n_tiles, cost_s = measure(predictor, tested, tiling, bank, name)
        floor_s = floor_s or cost_s
        label = "whole frame" if min_defect_px is None else str(min_defect_px)
        cells = " | ".join("-" if np.isnan(value) else f"{100 * value:.1f}" for value in figures)
        say(f"| {label} | {n_tiles} | {cells} | {cost_s:.2f} | {cost_s / floor_s:.1f} |")


def learn(
    predictor: Predictor, references: list[Frame], tiling: Tiling | None, name: str
) -> ReferenceBank:
    """A bank of the references' tiles."""
    side = predictor.detector.input_size
    views = (
        predictor.prepare(tile.cut(frame.image))
        for frame in references
        for tile in plan(tiling, frame.image, side)
    )
    return learn_references(predictor, views, name, n_frames=len(references))


def measure(
    predictor: Predictor,
    frames: list[Frame],
    tiling: Tiling | None,
    bank: ReferenceBank | None,
    name: str,
) -> tuple[tuple[float, float, float], int, float]:
    """(I-AUROC, P-AUROC, AUPRO), tiles of the first frame, lowest CPU seconds of a frame."""
    scores, costs, pixels, has_masks = [], [], PixelScores(), False
    for frame in frames:
        start_s = time.process_time()
        ((score, found),) = predict_tiled(
            predictor, [frame.image], [name], [tiling], [bank], max_batch=BATCH
        )
        costs.append(time.process_time() - start_s)
        scores.append(score)
        if frame.mask is not None:
            height, width = frame.mask.shape
            scale = FRAME_PX / max(height, width)
            size = (round(width * scale), round(height * scale))
            mask = cv2.resize(frame.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            pixels.add(cv2.resize(found.here(), size, interpolation=cv2.INTER_LINEAR), mask >= 0.5)
            has_masks = has_masks or bool(frame.mask.any())
    labels = np.array([frame.is_bad for frame in frames])
    image = binary_metrics(labels, np.array(scores)).auroc
    metrics = pixels.metrics()
    figures = (image, metrics.auroc, metrics.aupro_exact) if has_masks else (image, np.nan, np.nan)
    n_tiles = len(plan(tiling, frames[0].image, predictor.detector.input_size))
    return figures, n_tiles, min(costs)


def frame_of(sample: Sample) -> Frame:
    """A frame as it is in the set."""
    image = load_image(sample.image_path)
    if not sample.is_anomalous:
        return Frame(image, np.zeros(image.shape[:2], np.bool_), is_bad=False)
    mask = None if sample.mask_path is None else load_mask(sample.mask_path)
    return Frame(image, mask, is_bad=True)


def mosaics(samples: list[Sample], side: int, n_good: int, n_bad: int) -> Iterator[Frame]:
    """Good frames first; no good crop is in a frame twice."""
    rng = np.random.default_rng(0)
    cells = [cell.image for cell in crops([s for s in samples if not s.is_anomalous], rng)]
    defects = crops([sample for sample in samples if sample.is_anomalous], rng)
    for number in range(n_good + n_bad):
        chosen = [cells[index] for index in rng.choice(len(cells), side**2, replace=False)]
        mask: NDArray[np.bool_] | None = np.zeros((side * CELL, side * CELL), np.bool_)
        if number >= n_good:
            defect = next(defects, None)
            if defect is None:
                return
            place = int(rng.integers(side**2))
            chosen[place] = defect.image
            top, left = place // side * CELL, place % side * CELL
            if defect.mask is None:
                mask = None
            else:
                mask[top : top + CELL, left : left + CELL] = defect.mask
        rows = [np.concatenate(chosen[n : n + side], axis=1) for n in range(0, side**2, side)]
        yield Frame(np.concatenate(rows), mask, is_bad=number >= n_good)


def crops(samples: list[Sample], rng: np.random.Generator) -> Iterator[Frame]:
    """CELL x CELL pixels of each image that has them, around its defect if that is small."""
    for index in rng.permutation(len(samples)):
        frame = frame_of(samples[index])
        height, width = frame.image.shape[:2]
        if min(height, width) < CELL:
            continue
        y, x = int(rng.integers(height)), int(rng.integers(width))
        if frame.is_bad and frame.mask is not None:
            ys, xs = np.nonzero(frame.mask)
            if not len(ys) or max(np.ptp(ys), np.ptp(xs)) > SMALL_DEFECT_PX:
                continue
            y, x = int(ys.mean()), int(xs.mean())
        top = int(np.clip(y - CELL // 2, 0, height - CELL))
        left = int(np.clip(x - CELL // 2, 0, width - CELL))
        window = (slice(top, top + CELL), slice(left, left + CELL))
        mask = None if frame.mask is None else frame.mask[window]
        yield Frame(frame.image[window], mask, frame.is_bad)


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
