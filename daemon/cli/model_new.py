"""`zsad model new`: the folder of a model whose method is not trained, for a line or a category."""

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from daemon.cli.method_arguments import add_method_arguments, named_backbone, named_method
from daemon.errors import ConfigError

_METHODS = ("clip_zero_shot", "winclip", "anovl")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `model new`."""
    parser = commands.add_parser(
        "new",
        help="make the folder of a method that is not trained, for `checkpoint:` of a line or a "
        "category; other methods: zsad train",
    )
    parser.add_argument("method", choices=_METHODS)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="must not exist")
    add_method_arguments(parser, backbone="compact-v1")
    parser.set_defaults(run=_run_new)


def _run_new(args: argparse.Namespace) -> int:
    from zsad.backbone import BackboneError
    from zsad.backbone_loading import load_backbone
    from zsad.build import build_detector
    from zsad.checkpoint import new_card, save_checkpoint

    if args.out.exists():
        raise ConfigError(f"--out: {args.out} is there already: a model's folder never changes")
    method = named_method(args)
    try:
        detector = build_detector(method, load_backbone(named_backbone(args, method)))
        card = new_card(
            detector,
            data=(),
            metrics={},
            seed=0,
            git_revision=None,
            created=datetime.now(UTC),
            training_command=shlex.join(["zsad", *sys.argv[1:]]),
        )
        version = save_checkpoint(args.out, detector, card)
    except (BackboneError, ValueError) as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"--out: {args.out} cannot be written: {error.strerror}") from error
    Console(soft_wrap=True).print(f"written: {args.out} ({version})", markup=False, highlight=False)
    return 0
