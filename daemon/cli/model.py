"""`zsad model`: which models a line has, which one inspects, and changing that by hand."""

import argparse
import getpass
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.cli.arguments import positive_int
from daemon.cli.line_database import add_line_arguments, open_line
from daemon.cli.model_new import add_command as add_new_command
from daemon.config.line import Config
from daemon.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from zsad.predictor import Predictor

BASE = "base"
ACTIVE = "active"


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `model list`, `promote`, `rollback`, `try`, `reject`, `import`, `export` and `new`."""
    group = subparsers.add_parser("model", help="the models of a line, and which one inspects")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    parser = commands.add_parser("list", help="models that are here, newest first")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=_run_list)
    add_line_arguments(parser)

    parser = _add(commands, "promote", _run_promote, "inspect with this model from now on")
    _add_version(parser, f"as `zsad model list` shows it; {BASE!r} is the configured one")
    parser = _add(commands, "rollback", _run_rollback, "return to the model before the active one")
    parser = _add(
        commands, "try", _run_try, "let a model score live frames beside the active one first"
    )
    _add_version(parser, "as `zsad model list` shows it")
    parser.add_argument(
        "--frames", type=positive_int, metavar="N", help="so many (training.shadow_frames)"
    )
    parser = _add(commands, "reject", _run_reject, "take the candidate out of the running")

    parser = commands.add_parser("import", help="add a model from a bundle; promotes nothing")
    parser.add_argument("bundle", type=Path, help="what `zsad model export` wrote")
    parser.set_defaults(run=_run_import)
    add_line_arguments(parser)
    parser = commands.add_parser("export", help="write a model as one file, for a USB stick")
    _add_version(parser, f"as `zsad model list` shows it, or {ACTIVE!r}")
    parser.add_argument("--out", type=Path, required=True, help="file to write; must not exist")
    parser.set_defaults(run=_run_export)
    add_line_arguments(parser)
    add_new_command(commands)


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Any, help_: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_)
    parser.add_argument("--reason", default="by hand", help="for the audit trail")
    parser.set_defaults(run=run)
    add_line_arguments(parser)
    return parser


def _add_version(parser: argparse.ArgumentParser, help_: str) -> None:
    parser.add_argument("version", metavar="VERSION", help=help_)


def _run_list(args: argparse.Namespace) -> int:
    from daemon.storage import models
    from daemon.training.stored_model import store_of

    with open_line(args, may_create=True) as (config, engine), engine.connect() as connection:
        store = store_of(config)
        active = models.active(connection, config.line)
        candidate = models.candidate(connection, config.line)
        base = store.base_version()
        rows: list[dict[str, Any]] = []
        for version, card, n_bytes in (
            *((model.version, model.card, model.n_bytes) for model in store.models()),
            (base, store.verify(base), None),
        ):
            last = models.last_change(connection, config.line, version, *models.ModelChangeKind)
            rows.append(
                {
                    "version": version,
                    "is_active": version == (base if active is None else active.version),
                    "is_candidate": candidate is not None and version == candidate.version,
                    "is_configured": version == base,
                    "created_utc": card.created.isoformat(),
                    "bytes": n_bytes,
                    "metrics": card.metrics,
                    "last_change": None if last is None else last.kind.value,
                    "last_reason": None if last is None else last.reason,
                }
            )
    if args.json:
        previous = None if active is None else active.previous
        answer = {"line": config.line, "previous": previous, "models": rows}
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        _print_list(rows)
    return 0


def _print_list(rows: list[dict[str, Any]]) -> None:
    from daemon.report.words import clean

    table = Table()
    table.add_column("model", no_wrap=True)
    for name in ("is", "made", "MB", "last change"):
        table.add_column(name, overflow="fold")
    for row in rows:
        roles = [name for name in (ACTIVE, "candidate", "configured") if row[f"is_{name}"]]
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
        change = "" if row["last_change"] is None else f"{row['last_change']}: {row['last_reason']}"
        cells = (row["version"], ", ".join(roles), row["created_utc"][:10], size, change)
        table.add_row(*(Text(clean(cell)) for cell in cells))
    Console(soft_wrap=True).print(table)


def _run_promote(args: argparse.Namespace) -> int:
    from daemon.storage import models
    from daemon.storage.database import write_transaction
    from daemon.training.stored_model import open_stored, store_of

    with open_line(args, may_create=True) as (config, engine):
        store = store_of(config)
        base = store.base_version()
        version = base if args.version == BASE else args.version
        predictor = open_stored(store, version, config.model.device)
        with engine.connect() as connection:
            active = models.active(connection, config.line)
        running = base if active is None else active.version
        _refuse_without_thresholds(config, engine, predictor, running)
        with write_transaction(engine) as connection:
            models.promote(
                connection,
                config.line,
                version,
                instead_of=running,
                author=_author(),
                reason=args.reason,
                now=datetime.now(UTC),
            )
    _say(f"{version} is the active model of line {config.line}, before {running}")
    return 0


def _run_rollback(args: argparse.Namespace) -> int:
    from daemon.storage import models
    from daemon.storage.database import write_transaction
    from daemon.training.stored_model import store_of

    with open_line(args, may_create=True) as (config, engine):
        store = store_of(config)
        with write_transaction(engine) as connection:
            active = models.active(connection, config.line)
            version = store.base_version() if active is None else active.version
            back = models.roll_back(
                connection, config.line, version, _author(), args.reason, datetime.now(UTC)
            )
            store.verify(back.version)  # raises, and nothing is changed
    _say(f"{back.version} is the active model of line {config.line}, before {version}")
    return 0


def _run_try(args: argparse.Namespace) -> int:
    from daemon.storage import models
    from daemon.storage.database import write_transaction
    from daemon.training.stored_model import open_stored, store_of

    with open_line(args, may_create=True) as (config, engine):
        store = store_of(config)
        assert config.training is not None, "it has a store"  # noqa: S101
        frames = args.frames or config.training.shadow_frames
        predictor = open_stored(store, args.version, config.model.device)
        with engine.connect() as connection:
            active = models.active(connection, config.line)
        running = store.base_version() if active is None else active.version
        _refuse_without_thresholds(config, engine, predictor, running)
        with write_transaction(engine) as connection:
            models.propose(
                connection,
                config.line,
                args.version,
                frames,
                _author(),
                args.reason,
                datetime.now(UTC),
            )
    _say(f"{args.version} is the candidate of line {config.line}: it scores {frames} live frames")
    return 0


def _run_reject(args: argparse.Namespace) -> int:
    from daemon.storage import models
    from daemon.storage.database import write_transaction

    with (
        open_line(args, may_create=True) as (config, engine),
        write_transaction(engine) as connection,
    ):
        waiting = models.candidate(connection, config.line)
        if waiting is None:
            raise ModelError(f"line {config.line!r} has no candidate: nothing to reject")
        models.reject(
            connection, config.line, waiting.version, _author(), args.reason, datetime.now(UTC)
        )
    _say(f"{waiting.version} is no longer the candidate of line {config.line}")
    return 0


def _run_import(args: argparse.Namespace) -> int:
    from daemon.storage.models import ModelChangeKind
    from daemon.training.bundle import read_bundle
    from daemon.training.stored_model import refuse_other_backbone, store_of, try_model

    with open_line(args, may_create=True) as (config, engine):
        store = store_of(config)
        with store.scratch() as folder:
            version = read_bundle(args.bundle, folder)
            refuse_other_backbone(store, folder)
            try_model(folder, version, config.model.device)
            store.add(folder)
        _note_files(config, engine, ModelChangeKind.IMPORTED, version, f"from {args.bundle.name}")
    _say(
        f"{version} was added; nothing else changed. It needs thresholds (`zsad calibrate --model "
        f"{version}`), then `zsad model try {version}` or `zsad model promote {version}`"
    )
    return 0


def _run_export(args: argparse.Namespace) -> int:
    from daemon.storage import models
    from daemon.storage.models import ModelChangeKind
    from daemon.training.bundle import write_bundle
    from daemon.training.stored_model import store_of

    with open_line(args, may_create=True) as (config, engine):
        store = store_of(config)
        version = args.version
        if version == ACTIVE:
            with engine.connect() as connection:
                active = models.active(connection, config.line)
            version = store.base_version() if active is None else active.version
        n_bytes = write_bundle(store, version, args.out)
        _note_files(config, engine, ModelChangeKind.EXPORTED, version, f"to {args.out.name}")
    _say(f"{args.out} holds {version} ({n_bytes:,} bytes)")
    return 0


def _refuse_without_thresholds(
    config: Config, engine: "Engine", predictor: "Predictor", running: str
) -> None:
    """A category that is judged now must be judged by the next model too."""
    from daemon.inspection.loaded_model import LoadedModel
    from daemon.model_rows import judged_only_by

    model = LoadedModel(
        predictor,
        config.shared_categories,
        config.model.references_dir,
        max_batch=config.batch.max_batch_size,
    )
    try:
        versions = {name: model.references.version_of(name) for name in config.shared_categories}
    finally:
        model.close()
    with engine.connect() as connection:
        missing = judged_only_by(connection, config.shared_categories, running, versions)
    if missing:
        raise ModelError(
            f"model {predictor.version} has no thresholds for {', '.join(missing)}: make them with "
            f"`zsad calibrate --model {predictor.version} --category {missing[0]} IMAGES` of OK "
            "parts; nothing was changed"
        )


def _note_files(config: Config, engine: "Engine", kind: Any, version: str, reason: str) -> None:
    from daemon.storage import models
    from daemon.storage.database import write_transaction

    with write_transaction(engine) as connection:
        models.note_files(
            connection, config.line, kind, version, _author(), reason, datetime.now(UTC)
        )


def _author() -> str:
    """Who asks: the user of the operating system."""
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise ConfigError("this account has no name, and the audit trail needs one") from error


def _say(sentence: str) -> None:
    Console(soft_wrap=True).print(sentence, markup=False, highlight=False)
