"""A changed configuration: what differs, what may change live, and how a wrong one is refused."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from daemon.config.changes import ABSENT, LIVE_KEYS, changes, with_live_changes
from daemon.config.line import Config
from daemon.config.storage import StorageConfig
from daemon.config_file import ConfigFileError, line_of, load_config, read_config, shown
from daemon.core import EventKind, Severity
from daemon.errors import CategoryModelError
from daemon.health import Health
from daemon.reload import ConfigKeeper
from daemon.status import ConfigStatus, read_in_force
from daemon.storage import config_history, revision
from daemon.storage.database import open_database

WriteConfig = Callable[..., Path]
NOTED = list[tuple[EventKind, str, Severity]]
RATE = ("{class_name: woven fabric}", "{class_name: woven fabric, ng_rate: 0.02}")


@pytest.fixture
def config(write_config: WriteConfig) -> Config:
    return load_config(write_config())


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_database(StorageConfig(url="sqlite:///results.db"), tmp_path, {})
    revision.prepare(engine)
    yield engine
    engine.dispose()


def keeper(path: Path, engine: Engine) -> tuple[ConfigKeeper, Health]:
    file = read_config(path)
    file.config.run_dir.mkdir(exist_ok=True)
    health = Health(line="L1", cameras=(), categories=(), database="", queue_limit=1)
    return ConfigKeeper(file, engine, health), health


def status(health: Health) -> ConfigStatus:
    found = health.snapshot(0.0, datetime.now(UTC)).config
    assert found is not None
    return found


def reload(
    kept: ConfigKeeper, prepare: Callable[[Config], None] = lambda _: None
) -> tuple[list[Config], NOTED]:
    applied: list[Config] = []
    noted: NOTED = []
    kept.reload(prepare, applied.append, lambda *note: noted.append(note))
    return applied, noted


# --- what differs


def test_a_difference_is_told_by_key_with_both_values(write_config: WriteConfig) -> None:
    old = shown(load_config(write_config()))
    new = shown(load_config(write_config(RATE, ("5555", "5556"), ("  cam1:", "  cam1:\n  cam2:"))))

    found = {change.key: change for change in changes(old, new)}

    assert str(found["categories.fabric.ng_rate"]) == "categories.fabric.ng_rate: 0.01 -> 0.02"
    assert found["cameras.cam2"].old == ABSENT
    assert found["sources[0].endpoint"].new == "tcp://127.0.0.1:5556"
    assert {key for key, change in found.items() if change.needs_restart} == {"sources[0].endpoint"}


def test_equal_configurations_differ_in_nothing(config: Config) -> None:
    assert changes(shown(config), shown(config)) == []


LIVE_SAMPLES = {
    "categories": RATE,
    "cameras": ("  cam1:", "  cam1: {category: fabric}"),
    "shifts": ("18:00", "19:00"),
    "limits.max_pixels": ("shifts:", "limits: {max_pixels: 5000}\nshifts:"),
    "limits.max_clock_skew_s": ("shifts:", "limits: {max_clock_skew_s: 5}\nshifts:"),
    "storage.thumbnail_px": ("storage:", "storage:\n  thumbnail_px: 64"),
    "storage.thumbnails": ("storage:", "storage:\n  thumbnails: [NG]"),
    "log.level": ("shifts:", "log: {level: DEBUG}\nshifts:"),
}


@pytest.mark.parametrize("key", LIVE_KEYS)
def test_what_is_called_live_is_taken_over_and_nothing_else(
    write_config: WriteConfig, key: str
) -> None:
    old = load_config(write_config())
    new = load_config(write_config(LIVE_SAMPLES[key], ("5555", "5556")))

    left = changes(shown(with_live_changes(old, new)), shown(new))

    assert [change.key for change in left] == ["sources[0].endpoint"]
    assert any(change.key.startswith(key) for change in changes(shown(old), shown(new)))


VALUES = st.dictionaries(
    st.sampled_from("ab"), st.integers(0, 2) | st.dictionaries(st.sampled_from("cd"), st.booleans())
)


@given(old=VALUES, new=VALUES)
@settings(max_examples=50)
def test_there_is_a_difference_exactly_where_values_differ(old: object, new: object) -> None:
    assert bool(changes({"a": old}, {"a": new})) == (old != new)


# --- secrets


def test_the_kept_text_hides_secrets_and_keeps_every_line(write_config: WriteConfig) -> None:
    path = write_config(
        ("sqlite:///results.db", "postgresql://zsad:s3cret@db/zsad"),
        ("shifts:", "outputs:\n  mqtt: {host: broker, password: tops3cret}\nshifts:"),
    )

    file = read_config(path)

    assert "s3cret" not in file.text
    assert len(file.text.splitlines()) == len(path.read_text().splitlines())
    assert "postgresql://zsad:***@db/zsad" in file.text
    assert line_of(file.text, ("storage", "url")) == line_of(path.read_text(), ("storage", "url"))


def test_a_secret_that_cannot_be_found_in_the_text_keeps_the_whole_text_back(
    write_config: WriteConfig,
) -> None:
    path = write_config(
        ("shifts:", 'outputs:\n  mqtt: {host: broker, password: "s3\\x63ret"}\nshifts:')
    )

    assert "s3" not in read_config(path).text


# --- the keeper


def test_a_changed_file_is_applied_noted_and_remembered(
    write_config: WriteConfig, engine: Engine
) -> None:
    kept, health = keeper(write_config(), engine)
    first = status(health)
    path = write_config(RATE)

    applied, noted = reload(kept)

    assert [config.categories["fabric"].ng_rate for config in applied] == [0.02]
    assert noted == [
        (EventKind.CONFIG_CHANGED, "categories.fabric.ng_rate: 0.01 -> 0.02", Severity.INFO)
    ]
    now = status(health)
    assert (now.reloads, now.problems, now.needs_restart) == (1, (), ())
    assert now.sha256 == read_config(path).sha256 != first.sha256
    shown_now = read_in_force(kept.in_force.run_dir)
    assert shown_now == json.loads(json.dumps(shown(kept.in_force)))
    with engine.connect() as connection:
        before = config_history.in_force(connection, "L1", first.applied_utc)
        after = config_history.in_force(connection, "L1", datetime.now(UTC))
    assert before is not None
    assert after is not None
    assert ("0.02" in before.text, "0.02" in after.text) == (False, True)


def test_a_wrong_file_is_refused_with_its_problems_and_nothing_changes(
    write_config: WriteConfig, engine: Engine
) -> None:
    kept, health = keeper(write_config(), engine)
    first = status(health)
    write_config(("{class_name: woven fabric}", "{class_name: woven fabric, ng_rate: 2}"))

    applied, noted = reload(kept)

    assert applied == []
    assert kept.in_force.categories["fabric"].ng_rate == 0.01
    ((kind, detail, severity),) = noted
    assert (kind, severity) == (EventKind.CONFIG_REFUSED, Severity.WARNING)
    assert "daemon.yaml:9:" in detail
    now = status(health)
    assert (now.reloads, now.sha256, now.applied_utc) == (1, first.sha256, first.applied_utc)
    assert "categories.fabric.ng_rate" in now.problems[0]


def test_what_needs_a_restart_waits_and_is_told(write_config: WriteConfig, engine: Engine) -> None:
    kept, health = keeper(write_config(), engine)
    write_config(RATE, ("5555", "5556"))

    applied, noted = reload(kept)

    assert applied[0].categories["fabric"].ng_rate == 0.02
    assert applied[0].sources[0].endpoint == "tcp://127.0.0.1:5555"
    waiting = "sources[0].endpoint: tcp://127.0.0.1:5555 -> tcp://127.0.0.1:5556"
    assert status(health).needs_restart == (waiting,)
    assert noted[0][1].endswith(f"after a restart: {waiting}")


def test_a_file_that_vanished_is_refused(write_config: WriteConfig, engine: Engine) -> None:
    path = write_config()
    kept, health = keeper(path, engine)
    path.unlink()

    applied, noted = reload(kept)

    assert (applied, noted[0][0]) == ([], EventKind.CONFIG_REFUSED)
    with pytest.raises(ConfigFileError):
        read_config(path)
    assert "cannot be read" in status(health).problems[0]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (CategoryModelError("fabric", "model /x: no card"), "daemon.yaml:11:1: categories"),
        (OperationalError("SELECT", {}, Exception("no route")), "no route"),
    ],
)
def test_what_cannot_be_prepared_is_refused(
    write_config: WriteConfig, engine: Engine, error: Exception, problem: str
) -> None:
    kept, health = keeper(write_config(), engine)
    write_config(("{class_name: woven fabric}", "\n    class_name: cloth\n    checkpoint: x"))

    def prepare(coming: Config) -> None:
        assert coming.categories["fabric"].checkpoint is not None
        raise error

    applied, noted = reload(kept, prepare)

    assert (applied, noted[0][0]) == ([], EventKind.CONFIG_REFUSED)
    assert kept.in_force.categories["fabric"].class_name == "woven fabric"
    assert problem in status(health).problems[0]


# --- history


def version(minute: int, **recipes: str) -> config_history.ConfigVersion:
    at = datetime(2026, 1, 31, 6, minute, tzinfo=UTC)
    return config_history.ConfigVersion(at, f"sha{minute}", "f", "text", recipes)


def test_a_recipe_is_dated_from_its_last_change(engine: Engine) -> None:
    with engine.begin() as connection:
        for made in (version(1, a="x", b="x"), version(2, a="y", b="x"), version(3, b="x")):
            assert config_history.record(connection, "L1", made)
        since = [
            config_history.recipe_since(connection, "L1", category, recipe)
            for category, recipe in (("a", "y"), ("b", "x"), ("a", "x"), ("c", "z"))
        ]

    assert since == [
        version(2).applied_utc,
        config_history.ALWAYS,
        config_history.NOT_YET,
        config_history.ALWAYS,
    ]


def test_a_restart_with_the_same_file_adds_no_version(
    write_config: WriteConfig, engine: Engine
) -> None:
    path = write_config()
    _, health = keeper(path, engine)
    since = status(health).applied_utc

    keeper(path, engine)

    with engine.connect() as connection:
        found = config_history.in_force(connection, "L1", datetime.now(UTC))
    assert found is not None
    assert found.applied_utc == since
