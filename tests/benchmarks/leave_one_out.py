"""What the compact backbone's recipe finds on data sets that it was not fitted to.

    python tests/benchmarks/leave_one_out.py --fit SET [SET ...] --unseen SET [SET ...] --work WORK

For each set of `--fit` the backbone is fitted, by the recipe of the shipped weights, to the other
sets, surfaces and parts; standardisation too never sees the set that is left out. Then the set is
tested without and with references, as `reference_mode.py` does it. The sets of `--unseen` are never
fitted to; they are tested on the backbone that is fitted to all of `--fit`. A method with something
to train learns from the views of the fold, or a share of them. The CNN's descriptors of every
picture are computed once and kept in WORK (about 0.5 MB a picture), so that another fold costs a
regression; empty WORK where the code that draws or describes pictures has changed.

A set without good images gives pixel figures alone. The result is a Markdown table for each method,
one row a set (mean of its categories), and `leave_one_out.json` in WORK with every category.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import open_clip
import torch
from pydantic import TypeAdapter
from reference_mode import by_category, cell, look, mean_of, measure, say
from torch import Tensor, nn

from zsad.backbone import Backbone
from zsad.backbone_loading import compact_backbone
from zsad.build import build_detector
from zsad.compact import DEFAULT_COMPACT, SPECS, lay_out_clip
from zsad.compact_fit import FitRecipe, describe_views, fit_compact
from zsad.compact_stem import CompactPatchEmbed
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.corpus import PartViews, RealViews, SurfaceViews
from zsad.datasets.layouts import read_dataset
from zsad.detector import Detector, TrainableDetector
from zsad.predictor import Predictor
from zsad.train import run_stages
from zsad.train_method import Pictures, StageSchedule, embed_views, method_stages
from zsad.training_run import PART_KEY, PART_SHARE, REAL_SHARE, SURFACE_KEY, SURFACE_SHARE
from zsad.view_store import CHUNK, Draw, ViewStore, build_store

DEVICE = torch.device("cpu")


class KeptDescriptors(nn.Module):
    """A compact patch embedding that computes the descriptors of an image once and keeps them.

    Args:
        embed: The patch embedding.
        folder: One file an image.
    """

    def __init__(self, embed: CompactPatchEmbed, folder: Path) -> None:
        super().__init__()
        self.tokens = embed.tokens
        self.cnn = embed.cnn  # which a backbone folds
        self._embed = embed
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, width, g, g]."""
        tokens: Tensor = self.tokens(self.describe(images))
        return tokens

    def describe(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, C, g, g], rounded to half precision."""
        return torch.stack([self._described(image) for image in images])

    def _described(self, image: Tensor) -> Tensor:
        path = self._folder / f"{hashlib.sha256(image.numpy().tobytes()).hexdigest()}.npy"
        if not path.exists():
            np.save(path, self._embed.describe(image[None])[0].half().numpy())
        return torch.from_numpy(np.load(path)).float()


def main() -> None:
    """Print the tables and write the figures."""
    args = arguments()
    torch.set_num_threads(1)
    spec = SPECS[DEFAULT_COMPACT]
    clip = lay_out_clip(spec if args.side is None else replace(spec, image_size=args.side))
    clip.visual.conv1 = KeptDescriptors(clip.visual.conv1, args.work / "descriptors")
    stores = drawn_views(args, clip)
    rows = []
    for left_out in [*args.fit, None]:
        tested = args.unseen if left_out is None else [left_out]
        seen = [views for name, views in stores.items() if name != left_out]
        if tested:
            fit_compact(clip, joined(seen), FitRecipe())
        taught = joined([first_views(views, args.taught) for views in seen])
        for root in tested:
            for row in measured(clip, taught, root, args):
                rows.append(row)
                figures = " | ".join(cell(column) for column in row["figures"])
                say(f"{row['method']} {root.name} {row['category']}: {figures}")
    (args.work / "leave_one_out.json").write_text(json.dumps(rows, indent=1) + "\n")
    for method in args.methods:
        say(table(method, [row for row in rows if row["method"] == method], args))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", type=Path, nargs="+", required=True, help="in layout mvtec")
    parser.add_argument("--unseen", type=Path, nargs="*", default=[])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--views", type=int, default=200, help=f"of each set, in {CHUNK}s")
    parser.add_argument("--side", type=int, help="of the input in pixels; default as shipped")
    parser.add_argument("--methods", nargs="+", default=["clip_zero_shot"])
    parser.add_argument("--taught", type=float, default=1.0, help="share of the views it trains on")
    parser.add_argument("--epochs", type=int, default=2, help="of these, where trained")
    parser.add_argument("--references", type=int, nargs="*", default=[4, 16, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=260, help="of each set, of all categories")
    args = parser.parse_args()
    if args.views % CHUNK:
        parser.error(f"--views {args.views} is no multiple of {CHUNK}, the views in a file")
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def drawn_views(args: argparse.Namespace, clip: open_clip.CLIP) -> dict[Path | str, ViewStore]:
    """Views of every source, in the shares and with the random streams of the recipe."""
    side = clip.visual.image_size[0]
    sources: dict[Path | str, tuple[Draw, int]] = {
        root: (
            RealViews(
                read_dataset(root, "mvtec", warn=ignore), key=key, seed=0, side=side, synthetic=True
            ),
            args.views,
        )
        for key, root in enumerate(args.fit)
    }
    surfaces = SurfaceViews(key=SURFACE_KEY, seed=0, side=side)
    sources["surfaces"] = surfaces, args.views * SURFACE_SHARE // REAL_SHARE
    sources["parts"] = (
        PartViews(key=PART_KEY, seed=0, side=side),
        args.views * PART_SHARE // REAL_SHARE,
    )
    spec = replace(SPECS[DEFAULT_COMPACT], image_size=side)
    return {
        name: build_store(
            args.work / "views" / Path(name).name,
            draw,
            count,
            describe_views(clip, spec),
            identity=f"{name} {number} {side}",
        )
        for number, (name, (draw, count)) in enumerate(sources.items())
    }


def joined(stores: Sequence[ViewStore]) -> ViewStore:
    """One store of several, each of whole chunks."""
    return ViewStore(
        embedded=[chunk for store in stores for chunk in store.embedded],
        images=[chunk for store in stores for chunk in store.images],
        masks=np.concatenate([store.masks for store in stores]),
        labels=np.concatenate([store.labels for store in stores]),
        class_names=[name for store in stores for name in store.class_names],
        side=stores[0].side,
    )


def first_views(store: ViewStore, share: float) -> ViewStore:
    """The first views of a store, in whole chunks, at least one."""
    chunks = max(1, round(share * len(store.images)))
    count = chunks * CHUNK
    return replace(
        store,
        embedded=store.embedded[:chunks],
        images=store.images[:chunks],
        masks=store.masks[:count],
        labels=store.labels[:count],
        class_names=store.class_names[:count],
    )


def measured(
    clip: open_clip.CLIP, store: ViewStore, root: Path, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Figures of every category of a set, by every method."""
    backbone = compact_backbone(clip, BackboneConfig(name=DEFAULT_COMPACT))
    for method in args.methods:
        predictor = Predictor(
            detector=trained(method, backbone, store, args),
            mean=backbone.mean,
            std=backbone.std,
            device=DEVICE,
            version="in a fold",
        )
        n_categories = len({s.category for s in read_dataset(root, "mvtec", warn=ignore)})
        limit = math.ceil(args.images / n_categories)
        categories = by_category(root, limit, max(args.references, default=0))
        for category, samples in categories.items():
            figures, _ = measure("in a fold", look(predictor, samples), args.references, args.seeds)
            yield {"method": method, "set": root.name, "category": category, "figures": figures}


def trained(
    method: str, backbone: Backbone, store: ViewStore, args: argparse.Namespace
) -> Detector:
    """The method, after a short training on the fold's views if it has something to train."""
    config: MethodConfig = TypeAdapter(MethodConfig).validate_python({"method": method})
    detector = build_detector(config, backbone, seed=0)
    if isinstance(detector, TrainableDetector):
        embed = embed_views(backbone, DEVICE)
        views = replace(store, embedded=[embed(list(chunk)) for chunk in store.images])
        pictures = Pictures(views, seed=0, every_image=False, device=DEVICE)
        schedules = [StageSchedule(epochs=args.epochs, batch_size=8)] * 2
        with TemporaryDirectory(dir=args.work) as states:
            run_stages(
                method_stages(detector, pictures, schedules), Path(states), seed=0, identity=method
            )
    return detector.eval()


def table(method: str, rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    """One line a set; no mean, for sets without enough good images would come and go in it."""
    titles = ["0", *map(str, args.references)]
    lines = [f"\n{method}: I-AUROC / P-AUROC / AUPRO by number of references, {args.seeds} seeds\n"]
    lines += ["| set | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for root in [*args.fit, *args.unseen]:
        of_set = [row["figures"] for row in rows if row["set"] == root.name]
        means = [mean_of(column) for column in zip(*of_set, strict=True)]
        lines.append(f"| {root.name} | " + " | ".join(map(cell, means)) + " |")
    return "\n".join(lines)


def ignore(_: str) -> None:
    """Warnings about vanished masks do not belong into a table."""


if __name__ == "__main__":
    main()
