"""`zsad train`: train a method, or the compact backbone, on labelled data sets."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from daemon.cli.arguments import positive_float, positive_int
from daemon.cli.output import progress_bar, warn
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from zsad.config.method import MethodConfig
    from zsad.training_run import TrainingRun

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
    parser.add_argument("--layout", choices=("mvtec", "folder", "jsonl", "meta"), required=True)
    parser.add_argument("--backbone", metavar="NAME", help="compact-v1, or an open_clip model name")
    parser.add_argument(
        "--pretrained", metavar="TAG", help="open_clip tag or checkpoint file of --backbone"
    )
    parser.add_argument(
        "--image-size",
        type=positive_int,
        metavar="PX",
        help="input side; default: the backbone's own (the papers run ViT-L/14 at 518)",
    )
    parser.add_argument(
        "--activation",
        choices=("native", "quick_gelu", "gelu"),
        default="native",
        help="native: as the backbone's name says; the released AA-CLIP code runs gelu",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=("paper", "official"), default="paper")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method, as in zsad/config/METHOD.py; may be repeated",
    )
    parser.add_argument(
        "--views", type=positive_int, default=2000, help="training pictures drawn (2000)"
    )
    parser.add_argument(
        "--synthetic",
        action="store_true",
        help="add synthetic defects to normal images, and procedural surfaces",
    )
    for stage in _STAGES:
        published = f"of stage {stage} (default: as published)"
        parser.add_argument(f"--epochs-stage{stage}", type=_count, help=published)
        parser.add_argument(f"--batch-stage{stage}", type=positive_int, help=published)
        parser.add_argument(f"--lr-stage{stage}", type=positive_float, help=published)
    parser.add_argument(
        "--steps", type=positive_int, default=1500, help="steps of compact_backbone (1500)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (cpu)")
    parser.add_argument("--threads", type=positive_int, help="CPU threads; default is torch's")
    parser.set_defaults(run=_run_train)


def _count(text: str) -> int:
    """A whole number from 0."""
    return 0 if text == "0" else positive_int(text)


def _run_train(args: argparse.Namespace) -> int:
    import torch

    from zsad.backbone import BackboneError
    from zsad.checkpoint import CheckpointError
    from zsad.compact_stem import StemWeightsError
    from zsad.image_files import DataError
    from zsad.train import TrainingError

    if args.method != "compact_backbone" and args.backbone is None:
        raise ConfigError("--backbone is missing: give compact-v1 or an open_clip model name")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    console = Console()
    try:
        made = _train(args)
    except (BackboneError, CheckpointError, DataError, StemWeightsError, TrainingError) as error:
        raise ConfigError(str(error)) from error
    console.print(f"written: {made}", markup=False, soft_wrap=True)
    return 0


def _train(args: argparse.Namespace) -> Path:
    from zsad.compact_pretrain import PretrainRecipe
    from zsad.config.backbone import BackboneConfig
    from zsad.train_method import StageSchedule
    from zsad.training_run import train_compact_backbone, train_method

    run = _training_run(args)
    if args.method == "compact_backbone":
        return train_compact_backbone(run, PretrainRecipe(n_steps=args.steps), watch=progress_bar)
    given = vars(args)
    schedules = [
        StageSchedule(
            epochs=given[f"epochs_stage{stage}"],
            batch_size=given[f"batch_stage{stage}"],
            learning_rate=given[f"lr_stage{stage}"],
        )
        for stage in _STAGES
    ]
    backbone = BackboneConfig(
        name=args.backbone,
        pretrained=args.pretrained,
        image_size=args.image_size,
        activation=args.activation,
    )
    return train_method(run, _method(args), backbone, schedules, watch=progress_bar)


def _method(args: argparse.Namespace) -> "MethodConfig":
    """The method with its options; words of `--option` become what the option's type wants."""
    from pydantic import TypeAdapter, ValidationError

    from zsad.config.method import MethodConfig

    options = {"method": args.method}
    if args.preset != "paper":  # methods without released code have no preset to choose
        options["preset"] = args.preset
    for word in args.option:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--option {word!r} is not NAME=VALUE")
        options[name] = value
    try:
        method: MethodConfig = TypeAdapter(MethodConfig).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"option {place} is {first['input']!r}: {first['msg']}") from error
    return method


def _training_run(args: argparse.Namespace) -> "TrainingRun":
    import torch

    from zsad.training_run import TrainingRun, read_sets

    return TrainingRun(
        sets=read_sets(args.data, args.layout, warn=warn),
        unseen=read_sets(args.unseen, args.layout, warn=warn),
        out=args.out,
        seed=args.seed,
        n_views=args.views,
        synthetic=args.synthetic,
        device=torch.device(args.device),
        command=_command(args),
    )


def _command(args: argparse.Namespace) -> str:
    """The command line for the card: folders by name, for those of this machine mean nothing."""
    folders = {str(path) for path in (*args.data, *args.unseen, args.out)}
    words = [Path(word).name if word in folders else word for word in sys.argv[1:]]
    return shlex.join(["zsad", *words])
