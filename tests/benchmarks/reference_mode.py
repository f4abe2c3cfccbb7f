"""What references bring: image and pixel metrics with 0, 4, 16 and 64 of them, and cost a frame.

    python tests/benchmarks/reference_mode.py SET [SET ...] --images 200

References are good images of the same category, drawn with three seeds and never tested; a set
without training images gives them from its test images, and at most half of those: where that is
too few, the cell says "-". All columns of a row are over the same test images. AUPRO is the exact
one: the 200 thresholds of the published one lie evenly between the lowest and the highest value, so
that a bank would move it by its scale alone. A set that the checkpoint was trained on is not
unseen.
The result is a Markdown table, one row a category.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zsad.data import Sample, limit_per_category
from zsad.datasets.layouts import read_dataset
from zsad.detector import Prediction
from zsad.image_files import DataError
from zsad.loading import load_batches
from zsad.metrics import PixelScores, binary_metrics
from zsad.predictor import Predictor, load_predictor
from zsad.reference_bank import ReferenceBank, build_bank, patch_opinions
from zsad.reference_features import predict_with_features

BATCH = 8
Figures = tuple[float, float, float]
"""I-AUROC, P-AUROC, AUPRO in percent."""
UNKNOWN: Figures = (float("nan"),) * 3


@dataclass(frozen=True)
class Seen:
    """What the network says of a category's images; banks of every size are made from it."""

    samples: list[Sample]
    features: Tensor
    scores: Tensor
    maps: Tensor
    masks: list[np.ndarray | None]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", type=Path, nargs="+", help="folders in layout mvtec")
    parser.add_argument("--checkpoint", type=Path, help="default: the embedded detector")
    parser.add_argument("--references", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, help="test images of each category (all)")
    parser.add_argument("--categories", nargs="+", help="only these")
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = load_predictor(args.checkpoint, "cpu")

    titles = ["0", *map(str, args.references)]
    say(f"{predictor.version}: I-AUROC / P-AUROC / AUPRO, mean of {args.seeds} seeds\n")
    say("| category | normal | anomalous | " + " | ".join(titles) + " |")
    say("|---|---:|---:|" + "---|" * len(titles))
    bank: ReferenceBank | None = None
    rows = []
    for root in args.sets:
        for category, samples in by_category(
            root, args.images, max(args.references, default=0)
        ).items():
            if args.categories and category not in args.categories:
                continue
            seen = look(predictor, samples)
            row, bank = measure(predictor.version, seen, args.references, args.seeds)
            rows.append(row)
            normal = sum(not s.is_anomalous for s in samples)
            counts = f"{normal} | {len(samples) - normal}"
            say(f"| {category} | {counts} | {' | '.join(map(cell, row))} |")
    mean = [mean_of(column) for column in zip(*rows, strict=True)]
    say(f"| **mean** | | | {' | '.join(map(cell, mean))} |")
    if bank is not None:
        say(cost(predictor, bank))


def by_category(root: Path, limit: int | None, n_references: int) -> dict[str, list[Sample]]:
    """Test images of each category, and the normal ones of its training split.

    Args:
        limit: Test images of a category, half of them normal; None takes all.
        n_references: So many normal images more, where there are.
    """
    samples = read_dataset(root, "mvtec", warn=say_nothing)
    try:
        train = read_dataset(root, "mvtec", "train", warn=say_nothing)
    except DataError:
        train = []
    found: dict[str, list[Sample]] = {}
    for category in sorted({s.category for s in samples}):
        members = [s for s in samples if s.category == category]
        if limit is not None:
            kept = limit_per_category(members, limit)
            spare = [s for s in members if not s.is_anomalous and s not in kept]
            members = kept + spare[:: max(1, len(spare) // max(1, n_references))][:n_references]
        found[category] = members + [s for s in train if s.category == category]
    return found


def look(predictor: Predictor, samples: list[Sample]) -> Seen:
    """Run the network once over all images."""
    features, scores, maps, masks = [], [], [], []
    for batch in load_batches(samples, BATCH, predictor):
        prediction, tokens = predict_with_features(
            predictor.detector,
            torch.stack([item.image for item in batch]),
            [item.sample.class_name for item in batch],
        )
        features.append(tokens.half())
        scores.append(prediction.image_score)
        maps.append(prediction.anomaly_map)
        masks += [item.mask for item in batch]
    return Seen(samples, torch.cat(features), torch.cat(scores), torch.cat(maps), masks)


def measure(
    version: str, seen: Seen, sizes: list[int], seeds: int
) -> tuple[list[Figures], ReferenceBank | None]:
    """Zero-shot and with banks of every size: means over the seeds; NaN for too few images."""
    normal = np.flatnonzero([not sample.is_anomalous for sample in seen.samples])
    columns: list[list[Figures]] = [[] for _ in range(1 + len(sizes))]
    bank = None
    for seed in range(seeds):
        shuffled = np.random.default_rng(seed).permutation(normal)
        pool = shuffled[: min(max(sizes, default=0), len(shuffled) // 2)]
        tested = np.setdiff1d(np.arange(len(seen.samples)), pool).tolist()
        columns[0].append(figures(seen, tested, None))
        for column, size in zip(columns[1:], sizes, strict=True):
            if size > len(pool):
                column.append(UNKNOWN)
                continue
            taken = pool[:size].tolist()
            with torch.inference_mode():
                features = seen.features[taken]
                bank = build_bank(
                    version,
                    features,
                    patch_opinions(seen.maps[taken], features.shape[1]),
                    seen.scores[taken],
                    torch.Generator().manual_seed(seed),
                )
            column.append(figures(seen, tested, bank))
    return [mean_of(column) for column in columns], bank


def figures(seen: Seen, tested: list[int], bank: ReferenceBank | None) -> Figures:
    """Metrics over the tested images."""
    scores, pixels, has_masks = [], PixelScores(), False
    for start in range(0, len(tested), BATCH):
        rows = tested[start : start + BATCH]
        prediction = Prediction(seen.scores[rows], seen.maps[rows])
        if bank is not None:
            with torch.inference_mode():
                prediction = bank.fuse(seen.features[rows].float(), prediction)
        scores += prediction.image_score.tolist()
        for row, anomaly_map in zip(rows, prediction.anomaly_map.numpy(), strict=True):
            mask = seen.masks[row]
            if mask is not None:
                pixels.add(anomaly_map, mask)
                has_masks = has_masks or bool(mask.any())
    labels = np.array([seen.samples[row].is_anomalous for row in tested])
    has_both = labels.any() and not labels.all()
    image = binary_metrics(labels, np.array(scores)).auroc if has_both else float("nan")
    if not has_masks:
        return 100 * image, float("nan"), float("nan")
    pixel = pixels.metrics()
    return 100 * image, 100 * pixel.auroc, 100 * pixel.aupro_exact


def mean_of(column: Sequence[Figures]) -> Figures:
    """Each metric over the categories in which it is defined."""
    defined = [[v for v in values if not np.isnan(v)] for values in zip(*column, strict=True)]
    image, pixel, aupro = (sum(v) / len(v) if v else float("nan") for v in defined)
    return image, pixel, aupro


def cost(predictor: Predictor, bank: ReferenceBank) -> str:
    """CPU time of one frame, as ratios to the bare CNN (compact) or patch embedding, at batch 1."""
    backbone = predictor.detector.backbone
    side = predictor.detector.input_size
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    stem = backbone.clip.visual.conv1
    stem = getattr(stem, "cnn", stem)
    times: dict[str, list[float]] = {"bare stem": [], "zero-shot": [], "with bank": []}
    with torch.inference_mode():
        for _ in range(12):  # in turn, so that other load falls on all alike
            for name, run in (
                ("bare stem", lambda: stem(images)),
                ("zero-shot", lambda: predictor.predict_prepared(images, ["part"])),
                ("with bank", lambda: predictor.predict_prepared(images, ["part"], [bank])),
            ):
                start = time.process_time()
                run()
                times[name].append(time.process_time() - start)
    best = {name: min(values) for name, values in times.items()}
    floor = best["bare stem"]
    parts = ", ".join(f"{n} {1000 * t:.0f} ms ({t / floor:.2f})" for n, t in best.items())
    return f"\nCPU time a frame at batch 1, bank of {len(bank.patches)} patches: {parts}"


def cell(values: Figures) -> str:
    return " / ".join("-" if np.isnan(value) else f"{value:.1f}" for value in values)


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_nothing(_: str) -> None:
    """Warnings do not belong into a table."""


if __name__ == "__main__":
    main()
