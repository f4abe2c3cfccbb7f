"""The arguments that describe a method and its backbone on a command line."""

import argparse
from typing import TYPE_CHECKING

from daemon.cli.arguments import positive_int
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from zsad.config.backbone import BackboneConfig
    from zsad.config.method import MethodConfig


def add_method_arguments(parser: argparse.ArgumentParser, *, backbone: str | None) -> None:
    """Adds `--backbone`, `--pretrained`, `--image-size`, `--activation`, `--preset`, `--option`.

    Args:
        backbone: The default; None leaves it open.
    """
    default = "" if backbone is None else f" ({backbone})"
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        default=backbone,
        help=f"compact-v1, or an open_clip model name{default}",
    )
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
    parser.add_argument("--preset", choices=("paper", "official"), default="paper")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method, as in zsad/config/METHOD.py; may be repeated",
    )


def named_method(args: argparse.Namespace) -> "MethodConfig":
    """The method with its options; words of `--option` become what the option's type wants.

    Raises:
        ConfigError: an option that the method does not have, or a value that it does not take.
    """
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


def named_backbone(args: argparse.Namespace, method: "MethodConfig") -> "BackboneConfig":
    """The backbone, with the positions of tokens that the method is published with."""
    from zsad.config.backbone import BackboneConfig
    from zsad.config.published import with_published_positions

    backbone = BackboneConfig(
        name=args.backbone,
        pretrained=args.pretrained,
        image_size=args.image_size,
        activation=args.activation,
    )
    return with_published_positions(backbone, method)
