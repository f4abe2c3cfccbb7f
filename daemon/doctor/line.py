"""Can a configured line run: its folders, its database, its sockets, its keys?"""

import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import zmq
from sqlalchemy import Engine

from daemon.config.line import Config
from daemon.config.security import SecurityConfig
from daemon.doctor.finding import Finding, Level, fail, ok, warn
from daemon.entrance import server_key_pair
from daemon.errors import ConfigError, StorageError
from daemon.ingest.endpoints import NOT_THERE_YET
from daemon.ipc_path import is_held
from daemon.security.allow_list import read_allowed
from daemon.status import STATUS_FILE, is_process_alive, read_status
from daemon.storage import clock_guard, revision
from daemon.storage.database import open_database, resolve_url

LOW_BYTES = 5 << 30


def check_line(config: Config, folder: Path, secrets: Mapping[str, str]) -> Iterator[Finding]:
    """Everything a start needs.

    Args:
        folder: Of the configuration file.
        secrets: Where `${NAME}` is looked up.
    """
    pid = running_daemon(config.run_dir)
    yield ok("daemon", f"runs as process {pid}" if pid else "does not run")
    yield _run_dir(config.run_dir)
    yield from _database(config, folder, secrets)
    yield from _sockets(config, is_running=pid is not None)
    if config.security is not None:
        yield from _keys(config.security, config, secrets)
    elif any(source.allow_plain for source in config.sources):
        advice = "anybody on that network can send frames: see docs/security.md"
        yield warn("keys", "a source says allow_plain, and there is no `security:`", advice)


def running_daemon(run_dir: Path) -> int | None:
    """The process that runs this configuration, if any."""
    try:
        status = read_status(run_dir / STATUS_FILE)
    except (OSError, ValueError):
        return None
    return status.pid if is_process_alive(status.pid) else None


def _run_dir(run_dir: Path) -> Finding:
    nearest = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        advice = f"chown it to the daemon's user, or change run_dir (now {run_dir})"
        return fail("run_dir", f"{nearest} cannot be written by this user", advice)
    if nearest == run_dir and run_dir.stat().st_mode & stat.S_IWOTH:
        return fail("run_dir", f"{run_dir} may be written by everyone", f"chmod o-w {run_dir}")
    return ok("run_dir", str(run_dir) if nearest == run_dir else f"{run_dir} (will be made)")


def _database(config: Config, folder: Path, secrets: Mapping[str, str]) -> Iterator[Finding]:
    try:
        url = resolve_url(config.storage.url, folder, secrets)
        if url.get_backend_name() == "sqlite":
            path = Path(str(url.database))
            yield _disk(path.parent)
            if not path.exists():
                yield ok("database", f"{path} (made at the first start)")
                return
        engine = open_database(config.storage, folder, secrets, must_exist=True)
    except StorageError as error:
        yield fail("database", str(error), "correct storage.url, or start the database server")
        return
    except PermissionError as error:
        yield fail("database", str(error), "run this as the daemon's user, or as root")
        return
    try:
        schema = _schema(engine)
        yield schema
        if schema.level is Level.OK:
            yield from _clock(engine, config.line)
    finally:
        engine.dispose()


def _schema(engine: Engine) -> Finding:
    """Whether a start would take the database as it is."""
    shown = engine.url.render_as_string(hide_password=True)
    if revision.is_built_at_start(engine):
        return ok("database", f"{shown} is empty (built at the first start)")
    try:
        revision.require_current(engine)
    except StorageError as error:
        return fail("database", str(error), "the daemon does not start before that")
    return ok("database", f"{shown}, revision {revision.newest_revision()}")


def _clock(engine: Engine, line: str) -> Iterator[Finding]:
    """Whether retention would believe the clock."""
    if revision.is_built_at_start(engine):
        return
    with engine.connect() as connection:
        why_not = clock_guard.doubt(connection, line, datetime.now(UTC))
    if why_not is not None:
        advice = "set the clock; if it is right, run `zsad db prune --clock-is-right`"
        yield warn("clock", f"{why_not}: nothing is removed for its age", advice)


def _disk(folder: Path) -> Finding:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    text = f"{free / (1 << 30):.1f} GiB free on {nearest}"
    if free < LOW_BYTES:
        return warn("disk", text, "make room: pictures are left out when it gets full")
    return ok("disk", text)


def _sockets(config: Config, *, is_running: bool) -> Iterator[Finding]:
    bound = [source.endpoint for source in config.sources if source.mode == "bind"]
    verdicts = config.outputs.verdicts
    if verdicts is not None and verdicts.mode == "bind":
        bound.append(verdicts.endpoint)
    for endpoint in bound:
        yield _endpoint(endpoint, config.run_dir, is_running=is_running)
    if config.http.listen != "off":
        host, port = config.http.address
        problem = _problem_with(host, port)
        yield _judged("http", config.http.listen, problem, is_running=is_running)


def _endpoint(endpoint: str, run_dir: Path, *, is_running: bool) -> Finding:
    """Bind for a moment, unless the daemon holds it; of an ipc path, only look."""
    if is_running:
        return ok("endpoint", f"{endpoint} (held by the daemon)")
    if endpoint.startswith("ipc:///"):
        if is_held(endpoint):
            return _judged("endpoint", endpoint, "another program listens there", is_running=False)
        folder = Path(endpoint.removeprefix("ipc://")).parent
        if folder == run_dir and not folder.exists():
            return ok("endpoint", f"{endpoint} (its folder will be made)")
        if not os.access(folder, os.W_OK | os.X_OK):
            advice = "make the folder for the daemon's user, or choose another path"
            return fail("endpoint", f"{endpoint}: {folder} cannot be written", advice)
        return ok("endpoint", endpoint)
    with zmq.Context() as context, context.socket(zmq.PULL) as probe:
        probe.setsockopt(zmq.LINGER, 0)
        try:
            probe.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno in NOT_THERE_YET:
                advice = "the daemon starts and waits for it: is the network up? Else correct it"
                return warn("endpoint", f"{endpoint}: this machine has no such address", advice)
            return _judged("endpoint", endpoint, error.strerror, is_running=False)
    return _judged("endpoint", endpoint, None, is_running=False)


def _problem_with(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return "held" if error.errno == errno.EADDRINUSE else error.strerror
    return None


def _judged(name: str, address: str, problem: str | None, *, is_running: bool) -> Finding:
    if problem is None:
        return ok(name, f"{address} is free")
    if is_running and problem == "held":
        return ok(name, f"{address} (held by the daemon)")
    advice = "find who uses it with `ss -ltnp`, or configure another address"
    return fail(name, f"{address}: {problem}", advice)


def _keys(
    security: SecurityConfig, config: Config, secrets: Mapping[str, str]
) -> Iterator[Finding]:
    try:
        pair = server_key_pair(security, secrets)
    except ConfigError as error:
        advice = (
            "make one with `zsad keys new daemon` (docs/security.md); if the service has it from "
            "systemd, run doctor as systemd/README.md says"
        )
        yield fail("keys", str(error), advice)
    else:
        yield ok("keys", f"public key of this daemon: {pair.public}")
        path = Path(security.server_secret)
        if not security.server_secret.startswith("${") and path.stat().st_mode & 0o077:
            yield warn("keys", f"{path} may be read by its group", f"chmod 600 {path}")
    if not security.allowed_keys.is_dir():
        text = f"there is no folder {security.allowed_keys}"
        yield fail("keys", text, "allow a camera's key with `zsad keys allow`")
        return
    if any(p.stat().st_mode & 0o022 for p in (security.allowed_keys, *_files(security))):
        text = f"{security.allowed_keys} or a file in it may be written by others"
        yield fail("keys", text, f"chmod -R go-w {security.allowed_keys}")
    entries, problems = read_allowed(security.allowed_keys)
    for problem in problems:
        yield warn("keys", problem, "remove the line; it allows nobody")
    known = {entry.subject for entry in entries}
    yield ok("keys", f"{len(entries)} keys are allowed for {len(known)} cameras and gates")
    for stray in sorted(known - set(config.cameras) - {"_verdicts"}):
        text = f"keys are allowed for {stray}, which is not configured"
        yield warn("keys", text, "remove the file, or configure the camera")


def _files(security: SecurityConfig) -> list[Path]:
    return list(security.allowed_keys.glob("*.key"))
