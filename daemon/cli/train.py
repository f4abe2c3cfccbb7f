"""`zsad train`: train a method, or the compact backbone, on labelled data sets."""

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from daemon.cli.arguments import positive_float, positive_int
from daemon.cli.datasets import add_dataset_argument
from daemon.cli.method_arguments import add_method_arguments, named_backbone, named_method
from daemon.cli.output import Advance, progress_bar, warn
from daemon.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from zsad.processes import Processes
    from zsad.training_run import LabelledSet, TrainingRun

_STAGES = (1, 2)
_METHODS = (
    "aa_clip",
    "afr_clip",
    "fa_prompt",
    "mfp_clip",
    "anomaly_clip",
    "april_gan",
    "ada_clip",
    "coop",
    "cocoop",
    "mvfa_ad",
    "compact_backbone",
)


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `train`."""
    parser = subparsers.add_parser(
        "train",
        help="train a detector; the same command again goes on after an interruption",
        epilog="Several GPUs: torchrun --nproc-per-node N -m daemon train ... --device cuda. Every "
        "process takes a whole batch, as if one process had a batch N times as large.",
    )
    parser.add_argument(
        "--method",
        choices=_METHODS,
        required=True,
        help="a detector on --backbone; compact_backbone: the embedded backbone itself",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        nargs="+",
        action="extend",  # --data A B and --data A --data B are the same
        metavar="ROOT",
    )
    parser.add_argument(
        "--unseen",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="ROOT",
        help="measured after training for the card, never trained on",
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--layout", choices=("mvtec", "folder", "jsonl", "meta"))
    add_dataset_argument(kind)
    add_method_arguments(parser, backbone=None)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument(
        "--every-image",
        action="store_true",
        help="as the papers: all images as they are, each once an epoch in a new order",
    )
    pictures.add_argument(
        "--views",
        type=positive_int,
        default=2000,
        help="training pictures drawn at random from the images and augmented once (2000)",
    )
    parser.add_argument(
        "--synthetic",
        action="store_true",
        help="add synthetic defects to normal images, and procedural surfaces and parts",
    )
    for stage in _STAGES:
        published = f"of stage {stage} (default: as published)"
        parser.add_argument(f"--epochs-stage{stage}", type=_count, help=published)
        parser.add_argument(f"--batch-stage{stage}", type=positive_int, help=published)
        parser.add_argument(f"--lr-stage{stage}", type=positive_float, help=published)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (cpu)")
    _add_resources(parser)
    parser.add_argument("--threads", type=positive_int, help="CPU threads; default is torch's")
    parser.set_defaults(run=_run_train)


def _add_resources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="of products inside the backbone; fp16 needs CUDA; heads and losses stay fp32 (fp32)",
    )
    parser.add_argument(
        "--checkpointing",
        action="store_true",
        help="less memory: the backward pass computes the backbone's blocks again",
    )
    parser.add_argument(
        "--cache-gb",
        type=_count,
        default=16,
        help="disk for what the frozen backbone gives for each picture; 0 computes it anew (16)",
    )


def _count(text: str) -> int:
    """A whole number from 0."""
    return 0 if text == "0" else positive_int(text)


def _run_train(args: argparse.Namespace) -> int:
    import torch

    from zsad.backbone import BackboneError
    from zsad.checkpoint import CheckpointError
    from zsad.compact_stem import StemWeightsError
    from zsad.image_files import DataError
    from zsad.processes import joined_processes, local_device
    from zsad.train import TrainingError

    if args.method != "compact_backbone" and args.backbone is None:
        raise ConfigError("--backbone is missing: give compact-v1 or an open_clip model name")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = local_device(args.device)
    try:
        with _leaving_in_order(), joined_processes(device) as processes:
            made = _train(args, device, processes)
    except (BackboneError, CheckpointError, DataError, StemWeightsError, TrainingError) as error:
        raise ConfigError(str(error)) from error
    if processes.is_first:
        Console().print(f"written: {made}", markup=False, soft_wrap=True)
    return 0


@contextmanager
def _leaving_in_order() -> Iterator[None]:
    """SIGTERM ends the command as an exception does: the last step's state is saved."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _silently(_: str) -> Iterator[Advance]:
    """What the other processes show."""

    def advance(done: int, total: int, note: str = "") -> None:
        del done, total, note

    yield advance


def _train(args: argparse.Namespace, device: "torch.device", processes: "Processes") -> Path:
    from zsad.compact_fit import FitRecipe
    from zsad.train_method import StageSchedule
    from zsad.training_run import Watch, train_compact_backbone, train_method

    run = _training_run(args, device, processes)
    watch: Watch = progress_bar if processes.is_first else _silently
    if args.method == "compact_backbone":
        return train_compact_backbone(run, FitRecipe(), watch=watch)
    given = vars(args)
    schedules = [
        StageSchedule(
            epochs=given[f"epochs_stage{stage}"],
            batch_size=given[f"batch_stage{stage}"],
            learning_rate=given[f"lr_stage{stage}"],
        )
        for stage in _STAGES
    ]
    method = named_method(args)
    return train_method(run, method, named_backbone(args, method), schedules, watch=watch)


def _training_run(
    args: argparse.Namespace, device: "torch.device", processes: "Processes"
) -> "TrainingRun":
    from zsad.training_run import TrainingRun

    sets, unseen = _sets(args, warn if processes.is_first else _keep_quiet)
    return TrainingRun(
        sets=sets,
        unseen=unseen,
        out=args.out,
        seed=args.seed,
        device=device,
        command=_command(args, processes.count),
        n_views=args.views,
        synthetic=args.synthetic,
        every_image=args.every_image,
        precision=args.precision,
        checkpointing=args.checkpointing,
        cache_bytes=args.cache_gb * 10**9,
        processes=processes,
    )


def _sets(
    args: argparse.Namespace, say: Callable[[str], None]
) -> "tuple[list[LabelledSet], list[LabelledSet]]":
    """Data sets to train on and to measure with."""
    from zsad.training_run import named_set, read_sets

    if args.dataset is None:
        return (
            read_sets(args.data, args.layout, warn=say),
            read_sets(args.unseen, args.layout, warn=say),
        )
    if len(args.data) != 1 or args.unseen:
        raise ConfigError(
            "--dataset takes one --data ROOT and no --unseen: measure afterwards with zsad test"
        )
    return [named_set(args.dataset, args.data[0], warn=say)], []


def _keep_quiet(_: str) -> None:
    """The first process has said it."""


def _command(args: argparse.Namespace, n_processes: int) -> str:
    """The command line for the card: folders by name, for those of this machine mean nothing."""
    folders = {str(path) for path in (*args.data, *args.unseen, args.out)}
    words = [Path(word).name if word in folders else word for word in sys.argv[1:]]
    if n_processes > 1:
        start = ["torchrun", "--nproc-per-node", str(n_processes), "-m", "daemon"]
        return shlex.join([*start, *words])
    return shlex.join(["zsad", *words])
