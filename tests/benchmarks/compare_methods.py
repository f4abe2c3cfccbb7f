"""Every method on the compact backbone, before and after a short training, on unseen products.

    python tests/benchmarks/compare_methods.py --train SET [SET ...] --unseen SET [SET ...]

All methods train on the same views for the same number of epochs, with their published learning
rates and batch sizes, once for every seed; a seed is one of initial weights and of the order of
views. Each trained detector is compared with itself before training. The result is a Markdown
table of the mean over the seeds ± half the distance from lowest to highest; rows appear as they
are done. Images are read once and prepared alike for all methods.
Not a reproduction of any published table: the backbone has no language, and training is short.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor, nn

from zsad.backbone import Backbone
from zsad.backbone_loading import load_backbone
from zsad.build import build_detector
from zsad.config.backbone import BackboneConfig
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.config.method import MethodConfig
from zsad.corpus import RealViews, View
from zsad.data import Sample, limit_per_category
from zsad.datasets.layouts import read_dataset
from zsad.detector import Detector, TrainableDetector
from zsad.loading import LoadedSample, load_batches
from zsad.metrics import PixelScores, binary_metrics
from zsad.predictor import Predictor
from zsad.train import run_stages
from zsad.train_method import CachePlan, Pictures, StageSchedule, embed_views, method_stages
from zsad.view_store import ViewStore, build_store, source_of_view

METHODS = (
    "april_gan",
    "anomaly_clip",
    "coop",
    "cocoop",
    "fa_prompt",
    "mvfa_ad",
    "aa_clip",
    "afr_clip",
    "ada_clip",
    "mfp_clip",
    "clip_zero_shot",
    "winclip",
    "anovl",
)
TITLES = ("I-AUROC", "P-AUROC", "AUPRO")
DEVICE = torch.device("cpu")
TEST_BATCH = 8
CACHE_BYTES = 4 * 2**30
"""Of disk, for constants of the frozen backbone during one training."""

Figures = NDArray[np.float64]
"""[3] in percent, in the order of `TITLES`; NaN where there are no masks."""
Batches = list[list[LoadedSample]]
"""Of one category, read once for all detectors."""


class RememberedStem(nn.Module):
    """A patch embedding that computes each image once: most of a compact backbone's cost."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self._known: dict[bytes, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, Dv, g, g]; only what is computed for inference is kept."""
        if not torch.is_inference_mode_enabled():
            found: Tensor = self.stem(images)
            return found
        keys = [hashlib.sha256(image.numpy().data).digest() for image in images]
        for key, image in zip(keys, images, strict=True):
            if key not in self._known:
                self._known[key] = self.stem(image[None])[0]
        return torch.stack([self._known[key] for key in keys])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--unseen", type=Path, nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--views", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=2, help="of the views, for each stage")
    parser.add_argument("--images", type=int, default=200, help="of each unseen category")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, required=True, help="folder for views and states")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    backbone = load_backbone(BackboneConfig(name="compact-v1"))
    store = drawn_views(args, backbone)
    backbone.clip.visual.conv1 = RememberedStem(backbone.clip.visual.conv1)
    unseen = read_unseen(args, backbone)
    names = " / ".join(TITLES)
    say(f"| method | trainable | untrained {names} | trained {names} | wins I, P | minutes |")
    say("|---|---:|---|---|---|---:|")
    for name in args.methods:
        say(row_of(name, backbone, store, unseen, args))


def read_unseen(args: argparse.Namespace, backbone: Backbone) -> list[Batches]:
    """Prepared images and masks of every category."""
    reader = predictor_of(build_detector(CLIPZeroShotConfig(), backbone))
    by_category: dict[str, list[Sample]] = {}
    for root in args.unseen:
        for sample in limit_per_category(read_dataset(root, "mvtec"), args.images):
            by_category.setdefault(sample.category, []).append(sample)
    return [list(load_batches(samples, TEST_BATCH, reader)) for samples in by_category.values()]


def drawn_views(args: argparse.Namespace, backbone: Backbone) -> ViewStore:
    """The views that all methods train on."""
    sources = [
        RealViews(
            read_dataset(root, "mvtec"), key=key, seed=0, side=backbone.input_size, synthetic=True
        )
        for key, root in enumerate(args.train)
    ]
    shares = [1] * len(sources)

    def draw(index: int) -> View:
        source, number = source_of_view(index, shares)
        return sources[source](number)

    return build_store(
        args.work,
        draw,
        args.views,
        embed_views(backbone, DEVICE),
        identity=f"compare {[root.name for root in args.train]} {backbone.content_hash()}",
    )


def row_of(
    name: str,
    backbone: Backbone,
    store: ViewStore,
    unseen: Sequence[Batches],
    args: argparse.Namespace,
) -> str:
    """A method's line of the table."""
    before, after, minutes = [], [], []
    for seed in args.seeds:
        config: MethodConfig = TypeAdapter(MethodConfig).validate_python({"method": name})
        detector = build_detector(config, backbone, seed=seed)
        before.append(figures(detector, unseen))
        if not isinstance(detector, TrainableDetector):
            break  # nothing in it is random
        schedules = [StageSchedule(epochs=args.epochs)] * 2
        cache = CachePlan(args.work / f"{name}-{seed}", CACHE_BYTES)
        pictures = Pictures(store, seed=seed, every_image=False, device=DEVICE, cache=cache)
        stages = method_stages(detector, pictures, schedules)
        start = time.monotonic()
        identity = f"{name} {args.views} {args.epochs}"
        run_stages(stages, args.work / f"{name}-{seed}", seed=seed, identity=identity)
        minutes.append((time.monotonic() - start) / 60)
        detector.eval()
        after.append(figures(detector, unseen))
    count = sum(parameter.numel() for parameter in detector.own_parameters().values())
    if not after:
        return f"| {name} | {count:,} | {shown(before)} | - | - | - |"
    wins = (np.stack(after) > np.stack(before)).sum(axis=0)
    cells = [shown(before), shown(after), f"{wins[0]}, {wins[1]} of {len(after)}"]
    return f"| {name} | {count:,} | {' | '.join(cells)} | {np.mean(minutes):.1f} |"


def figures(detector: Detector, unseen: Sequence[Batches]) -> Figures:
    """Means over the categories, of each metric over those that have it."""
    predictor = predictor_of(detector)
    rows = [figures_of_category(predictor, batches) for batches in unseen]
    return np.asarray(100 * np.nanmean(rows, axis=0))


def figures_of_category(predictor: Predictor, batches: Batches) -> Figures:
    """Shares, not percent."""
    items = [item for batch in batches for item in batch]
    labels = np.array([item.sample.is_anomalous for item in items])
    has_masks = any(item.sample.mask_path is not None for item in items)
    scores, pixels = [], PixelScores()
    for batch in batches:
        names = [item.sample.class_name for item in batch]
        found, maps = predictor.predict_prepared(torch.stack([i.image for i in batch]), names)
        scores += found
        for item, anomaly_map in zip(batch, maps, strict=True):
            if has_masks and item.mask is not None:
                pixels.add(anomaly_map, item.mask)
    image = binary_metrics(labels, np.array(scores, np.float64))
    if not has_masks:
        return np.array([image.auroc, np.nan, np.nan])
    pixel = pixels.metrics()
    return np.array([image.auroc, pixel.auroc, pixel.aupro_exact])


def predictor_of(detector: Detector) -> Predictor:
    """The detector with its backbone's preparation of images."""
    backbone = detector.backbone
    return Predictor(detector, backbone.mean, backbone.std, DEVICE, "in comparison")


def shown(runs: Sequence[Figures]) -> str:
    """`mean ± half the distance from lowest to highest` of every metric."""
    values = np.stack(runs)
    half_ranges = np.ptp(values, axis=0) / 2
    if len(runs) == 1:
        return " / ".join(f"{value:.1f}" for value in values[0])
    return " / ".join(
        f"{mean:.1f} ± {half:.1f}"
        for mean, half in zip(values.mean(axis=0), half_ranges, strict=True)
    )


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
