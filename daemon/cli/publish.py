"""`zsad publish`: image files, folders or a video as a camera with a rate."""

import argparse
import math
from pathlib import Path


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `publish`."""
    parser = subparsers.add_parser(
        "publish",
        help="send images or a video as a camera",
        description="Send image files, folders or videos to a running daemon as one camera.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--endpoint", required=True, help="for example tcp://127.0.0.1:5555")
    parser.add_argument("--camera", required=True, help="camera name as configured")
    parser.add_argument("--category", help="product category; left to the daemon if not given")
    parser.add_argument(
        "--rate", type=_rate, default=10.0, help="frames per second (default %(default)s)"
    )
    parser.add_argument("--count", type=_count, help="stop after so many frames")
    parser.add_argument("--loop", action="store_true", help="begin again after the last file")
    parser.add_argument("--line", default="line", help="first half of the topic")
    parser.add_argument(
        "--socket",
        choices=("pub", "push", "dealer"),
        default="pub",
        help="pub may drop, push waits, dealer keeps each frame until it is stored",
    )
    parser.add_argument(
        "--mode", choices=("bind", "connect"), help="default bind; connect with --socket dealer"
    )
    parser.add_argument(
        "--outbox",
        type=Path,
        metavar="DIR",
        help="with --socket dealer: keep unstored frames here, also after a kill",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="own NAME.key_secret, where the daemon wants keys"
    )
    parser.add_argument("--server-key", metavar="KEY", help="the daemon's public key, or its file")
    parser.add_argument(
        "--encoding",
        choices=("raw", "jpeg", "png"),
        default="jpeg",
        help="on the wire; a file that already has it is sent unchanged (default %(default)s)",
    )
    parser.add_argument(
        "--part-ids",
        action="store_true",
        help="file names without suffix become part ids, so that labels find their frames",
    )
    parser.add_argument(
        "--wait-subscriber",
        type=_wait,
        default=10.0,
        metavar="S",
        help="seconds to wait for the daemon before the first frame, 0 sends at once "
        "(default %(default)s)",
    )
    parser.set_defaults(run=_run_publish)


def _run_publish(args: argparse.Namespace) -> int:
    from daemon.cli.play import play  # OpenCV, which `zsad --help` does not need

    return play(args)


def _rate(text: str) -> float:
    value = float(text)
    if not (0 < value <= 10_000 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 10000] frames per second")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _wait(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..86400 seconds")
    return value
