"""`zsad keys`: make key pairs, and say whose frames are accepted."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daemon.config.security import SecurityConfig
from daemon.config_file import load_config
from daemon.errors import ConfigError
from daemon.security import allow_list
from daemon.security.allow_list import VERDICTS, AllowedKey
from daemon.security.key_files import new_key_pair, read_public_key, write_key_pair

SOON = "a running daemon notices within a second"


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `keys new`, `keys allow`, `keys revoke` and `keys list`."""
    parser = subparsers.add_parser(
        "keys",
        help="keys of cameras and gates: make, allow, revoke, list",
        description="Keys of cameras and gates on the network; see docs/security.md.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    new = commands.add_parser("new", help="make a key pair: NAME.key and NAME.key_secret")
    new.add_argument("name", metavar="NAME", help="of a camera PC, a gate, or the daemon")
    new.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: here")
    new.set_defaults(run=_run_new)

    allow = commands.add_parser("allow", help="let the holder of a key send as a camera")
    allow.add_argument("public", metavar="PUBLIC", help="the NAME.key file, or the key itself")
    allow.set_defaults(run=_run_allow)

    revoke = commands.add_parser("revoke", help="take a key out of the list")
    revoke.add_argument("public", metavar="PUBLIC", help="the NAME.key file, or the key itself")
    revoke.set_defaults(run=_run_revoke)

    show = commands.add_parser("list", help="show whose keys are allowed")
    show.add_argument("--json", action="store_true", help="machine-readable output")
    show.set_defaults(run=_run_list)

    for command in (allow, revoke):
        subject = command.add_mutually_exclusive_group(required=command is allow)
        subject.add_argument("--camera", help="camera name as configured")
        subject.add_argument(
            "--verdicts", action="store_true", help="a gate, which reads verdicts instead"
        )
    for command in (allow, revoke, show):
        command.add_argument("--config", type=Path, required=True, metavar="FILE")


def _run_new(args: argparse.Namespace) -> int:
    pair = new_key_pair()
    if not args.name or "/" in args.name or args.name.startswith((".", "-")):
        raise ConfigError(f"{args.name!r} is not a name for a file")
    try:
        public_path, secret_path = write_key_pair(pair, args.name, args.out)
    except FileExistsError as error:
        raise ConfigError(
            f"{args.out}/{args.name}.key or .key_secret exists: choose another name, or remove both"
        ) from error
    except OSError as error:
        raise ConfigError(f"{args.out} cannot be written: {error.strerror}") from error
    _say(f"secret: {secret_path} (leave it on this machine, or move it to where it is used)")
    _say(f"public: {public_path}")
    return 0


def _run_allow(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    security = _security(config.security, args.config)
    if args.camera is not None and args.camera not in config.cameras:
        raise ConfigError(
            f"--camera {args.camera}: not among the cameras {', '.join(config.cameras)}"
        )
    subject = VERDICTS if args.verdicts else args.camera
    entry = AllowedKey(subject, _public_key(args.public), _owner(args.public))
    try:
        is_new = allow_list.allow(security.allowed_keys, entry)
    except OSError as error:
        raise _not_written(security.allowed_keys, error) from error
    _say(f"{_words(entry.subject)}: {'allowed' if is_new else 'was allowed already'}; {SOON}")
    return 0


def _run_revoke(args: argparse.Namespace) -> int:
    security = _security(load_config(args.config).security, args.config)
    key = _public_key(args.public)
    try:
        gone = allow_list.revoke(security.allowed_keys, key, _subject(args))
    except OSError as error:
        raise _not_written(security.allowed_keys, error) from error
    if not gone:
        _say(f"not among the allowed keys: {key}")
        return 1
    _say(f"revoked for {', '.join(_words(entry.subject) for entry in gone)}; {SOON}")
    return 0


def _run_list(args: argparse.Namespace) -> int:
    security = _security(load_config(args.config).security, args.config)
    entries, problems = allow_list.read_allowed(security.allowed_keys)
    if args.json:
        keys = [{"for": e.subject, "key": e.key, "owner": e.owner} for e in entries]
        _say(json.dumps({"keys": keys, "problems": problems}, indent=2))
        return 1 if problems else 0
    table = Table(box=None)
    for column in ("may send as", "key", "owner"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(escape(_words(entry.subject)), escape(entry.key), escape(entry.owner))
    Console(soft_wrap=True).print(table if entries else "no key is allowed")
    for problem in problems:
        Console(stderr=True, soft_wrap=True).print(problem, markup=False, highlight=False)
    return 1 if problems else 0


def _security(security: SecurityConfig | None, path: Path) -> SecurityConfig:
    if security is None:
        raise ConfigError(f"{path} has no `security:` section: add it first (docs/security.md)")
    return security


def _subject(args: argparse.Namespace) -> str | None:
    return VERDICTS if args.verdicts else args.camera


def _words(subject: str) -> str:
    return "(reads verdicts)" if subject == VERDICTS else subject


def _public_key(key_or_file: str) -> str:
    try:
        return read_public_key(key_or_file)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _owner(key_or_file: str) -> str:
    """The name of the key file says whose it is."""
    path = Path(key_or_file)
    return path.stem if path.suffix == ".key" and path.exists() else ""


def _not_written(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{folder} cannot be written: {error.strerror}; run this as its owner")


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
