"""What `zsad publish` does: send pictures at a rate, and say what was sent."""

import argparse
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import zmq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from daemon.errors import ConfigError
from daemon.ingest.endpoints import Mode
from daemon.ingest.playback import Picture, Unreadable, find_media, pictures_of
from daemon.ingest.publisher import FramePublisher
from daemon.ingest.reliable_publisher import ReliablePublisher

EXIT_FAILED = 1
STORED_WITHIN_S = 10.0

Publisher = FramePublisher | ReliablePublisher


def play(args: argparse.Namespace) -> int:
    """Send all pictures; 0 if every file was read and everything was taken, else 1."""
    console = Console(stderr=True)
    files = _find(args.paths)
    unreadable: list[Unreadable] = []
    with _open(args) as publisher:
        if args.wait_subscriber and not publisher.wait_for_subscriber(args.wait_subscriber):
            _say(
                console,
                f"nobody receives on {publisher.endpoint} after {args.wait_subscriber:g} s; "
                "is the daemon running, with this endpoint among its sources?",
            )
            return EXIT_FAILED
        end = _send_all(args, files, publisher, console, unreadable)
        waiting = _unstored(publisher)
    is_cut_short = isinstance(publisher, FramePublisher) and not publisher.is_handed_over
    for file in unreadable[:10]:
        _say(console, f"not sent: {file.path}: {file.reason}")
    _say(
        Console(),
        f"camera {args.camera}: sent {publisher.sent} frames, epoch {publisher.epoch}"
        + (f", {len(unreadable)} files unreadable" if unreadable else "")
        + (f", {waiting} not acknowledged" if waiting else "")
        + (f" and kept in {args.outbox} for the next start" if waiting and args.outbox else "")
        + (", not all of them taken by the daemon" if is_cut_short else "")
        + (f", {end}" if end else ""),
    )
    is_failed = unreadable or waiting or is_cut_short or end == "stopped" or not publisher.sent
    return EXIT_FAILED if is_failed else 0


def _unstored(publisher: Publisher) -> int:
    """Frames that a reliable publisher could not see stored in time; 0 for the others."""
    if isinstance(publisher, FramePublisher) or publisher.wait_until_stored(STORED_WITHIN_S):
        return 0
    return publisher.unacknowledged


def _send_all(
    args: argparse.Namespace,
    files: Sequence[Path],
    publisher: Publisher,
    console: Console,
    unreadable: list[Unreadable],
) -> Literal["", "interrupted", "stopped"]:
    """Send at the rate; `interrupted` by the user, which is how an endless loop ends."""
    never = threading.Event()
    total = args.count if args.loop or args.count is not None else None
    pictures = itertools.islice(_pictures(files, unreadable, is_loop=args.loop), args.count)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        ) as progress:
            task = progress.add_task(args.camera, total=total)
            started_at = time.monotonic()
            for number, picture in enumerate(pictures):
                never.wait(max(0.0, started_at + number / args.rate - time.monotonic()))
                _send(publisher, picture, args.encoding, has_part_ids=args.part_ids)
                progress.advance(task)
    except KeyboardInterrupt:
        return "interrupted"
    except TimeoutError as error:
        _say(console, f"stopped: {error}")
        return "stopped"
    return ""


def _send(publisher: Publisher, picture: Picture, encoding: str, *, has_part_ids: bool) -> None:
    part_id = picture.name if has_part_ids else None
    if picture.file_bytes is not None and picture.file_encoding == encoding:
        publisher.send_encoded(picture.file_bytes, picture.file_encoding, part_id=part_id)
    else:
        publisher.send(picture.image, part_id=part_id)


def _pictures(
    files: Sequence[Path], unreadable: list[Unreadable], *, is_loop: bool
) -> Iterator[Picture]:
    """Pictures in order; of each round after the first, only if the first gave any."""
    for turn in itertools.count():
        yielded = 0
        for path in files:
            for picture in pictures_of(path):
                if isinstance(picture, Picture):
                    yielded += 1
                    yield picture
                elif turn == 0:
                    unreadable.append(picture)
        if not is_loop or not yielded:
            return


def _find(paths: Sequence[Path]) -> list[Path]:
    try:
        files = find_media(paths)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    if not files:
        raise ConfigError(f"no image or video in {', '.join(map(str, paths))}")
    return files


def _open(args: argparse.Namespace) -> Publisher:
    if args.outbox is not None and args.socket != "dealer":
        raise ConfigError("--outbox needs --socket dealer: the other sockets keep no frame")
    mode: Mode = args.mode or ("connect" if args.socket == "dealer" else "bind")
    try:
        if args.socket == "dealer":
            return ReliablePublisher(
                args.endpoint,
                args.camera,
                category=args.category,
                line=args.line,
                mode=mode,
                encoding=args.encoding,
                outbox=args.outbox,
                secret_key=args.key,
                server_key=args.server_key,
            )
        return FramePublisher(
            args.endpoint,
            args.camera,
            category=args.category,
            line=args.line,
            socket=args.socket,
            mode=mode,
            encoding=args.encoding,
            secret_key=args.key,
            server_key=args.server_key,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except zmq.ZMQError as error:
        raise ConfigError(f"--endpoint {args.endpoint}: cannot {mode}: {error.strerror}") from error
    except OSError as error:
        raise ConfigError(f"--outbox {args.outbox}: {error.strerror}") from error


def _say(console: Console, text: str) -> None:
    """Print a line as it is: paths may hold what rich takes for markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
