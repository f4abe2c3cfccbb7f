import argparse
import json
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from daemon.cli import doctor, keys
from daemon.config_file import load_config
from daemon.entrance import server_key_pair
from daemon.errors import ConfigError
from daemon.security import allow_list
from daemon.security.allow_list import VERDICTS, AllowedKey, AllowList
from daemon.security.key_files import (
    new_key_pair,
    parse_secret,
    read_public_key,
    read_secret_file,
    write_key_pair,
)
from daemon.security.refusals import INTERVAL_S, MAX_KEYS, Refusals

SECURITY = {"server_secret": "daemon.key_secret", "allowed_keys": "allowed"}
SETTINGS = {
    "line": "L1",
    "timezone": "Europe/Berlin",
    "run_dir": "run",
    "sources": [{"endpoint": "tcp://0.0.0.0:5555", "mode": "bind"}],
    "cameras": {"cam1": {}},
    "categories": {"fabric": {"class_name": "woven fabric"}},
    "storage": {"url": "sqlite:///results.db"},
    "shifts": [{"name": "day", "start": "06:00"}],
    "security": SECURITY,
    "http": {"listen": "off"},
}


def write_config(folder: Path, **changes: object) -> Path:
    path = folder / "daemon.yaml"
    settings = {k: v for k, v in {**SETTINGS, **changes}.items() if v is not None}
    path.write_text(yaml.safe_dump(settings))
    return path


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    keys.add_commands(subparsers)
    doctor.add_commands(subparsers)
    args = parser.parse_args(words)
    return int(args.run(args))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_secret_is_for_its_owner_alone(tmp_path: Path) -> None:
    assert run("keys", "new", "pc1", "--out", str(tmp_path / "new")) == 0

    secret, public = tmp_path / "new" / "pc1.key_secret", tmp_path / "new" / "pc1.key"
    assert mode_of(secret) == 0o600
    assert read_public_key(str(public)) == read_secret_file(secret).public
    assert read_secret_file(secret).secret not in public.read_text()
    with pytest.raises(ConfigError, match="exists"):
        run("keys", "new", "pc1", "--out", str(tmp_path / "new"))


def test_allow_list_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path))
    run("keys", "new", "pc1", "--out", str(tmp_path))
    public = str(tmp_path / "pc1.key")

    assert run("keys", "allow", public, "--camera", "cam1", "--config", config) == 0
    assert run("keys", "allow", public, "--verdicts", "--config", config) == 0
    capsys.readouterr()
    assert run("keys", "list", "--json", "--config", config) == 0
    listed = json.loads(capsys.readouterr().out)["keys"]
    assert [(key["for"], key["owner"]) for key in listed] == [("_verdicts", "pc1"), ("cam1", "pc1")]

    assert run("keys", "revoke", public, "--config", config) == 0
    assert run("keys", "revoke", public, "--config", config) == 1
    allowed = AllowList(tmp_path / "allowed")
    assert not allowed.may_connect(read_public_key(public))
    assert not allowed.may_send("cam1", None), "revoking must not open the camera to everybody"


def test_a_camera_that_is_not_configured_gets_no_key(tmp_path: Path) -> None:
    config = str(write_config(tmp_path))
    public, _ = write_key_pair(new_key_pair(), "pc1", tmp_path)

    with pytest.raises(ConfigError, match="--camera cam9: not among the cameras cam1"):
        run("keys", "allow", str(public), "--camera", "cam9", "--config", config)

    assert not (tmp_path / "allowed").exists()


def test_a_secret_that_everyone_may_read_is_refused(tmp_path: Path) -> None:
    _, secret = write_key_pair(new_key_pair(), "pc1", tmp_path)
    secret.chmod(0o644)

    with pytest.raises(ValueError, match="may be read by every user: chmod"):
        read_secret_file(secret)


@pytest.mark.parametrize("text", ["", "x" * 40 + "\n" + "y" * 40, "secret-key = 'short'"])
def test_a_text_without_a_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$\{X\} holds no secret key") as caught:
        parse_secret(text, "${X}")

    assert not text or text not in str(caught.value)


def test_the_server_secret_may_come_from_the_environment(tmp_path: Path) -> None:
    pair = new_key_pair()
    _, file = write_key_pair(pair, "daemon", tmp_path)
    security = {**SECURITY, "server_secret": "${ZSAD_CURVE_SECRET}"}
    config = load_config(write_config(tmp_path, security=security)).security
    assert config is not None

    for text in (pair.secret, f"{pair.secret}\n", file.read_text()):
        assert server_key_pair(config, {"ZSAD_CURVE_SECRET": text}) == pair
    with pytest.raises(ConfigError, match="neither an environment variable nor a systemd"):
        server_key_pair(config, {})


def test_a_line_that_is_no_key_allows_nobody_and_the_others_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key_pair().public
    (tmp_path / "cam1.key").write_text(f"# a comment\n\nnonsense\n{key} pc1\n")

    with caplog.at_level(logging.WARNING):
        allowed = AllowList(tmp_path)

    assert allowed.may_send("cam1", key)
    assert not allowed.may_send("cam1", "nonsense")
    assert "cam1.key:3: no key" in str(caplog.records[0].__dict__["detail"])


def test_a_folder_that_vanishes_allows_nobody(tmp_path: Path) -> None:
    key = new_key_pair().public
    folder = tmp_path / "allowed"
    allow_list.allow(folder, AllowedKey(VERDICTS, key, ""))
    allowed = AllowList(folder)
    assert allowed.may_read(key)

    (folder / f"{VERDICTS}.key").unlink()
    folder.rmdir()
    allowed.refresh()

    assert not allowed.may_read(key)
    assert allowed.verdict_revocations == 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_refusals_are_told_once_a_minute_with_their_number() -> None:
    told: list[str] = []
    clock = Clock()
    refusals = Refusals(told.append, clock=clock)

    for _ in range(5):
        refusals.count("10.0.0.9", "no key")
        refusals.tell()
    clock.now += INTERVAL_S
    refusals.tell()

    assert told == ["10.0.0.9: no key", "10.0.0.9: no key (4 times)"]
    assert refusals.totals() == {"no key": 5}


def test_many_peers_gain_neither_memory_nor_events() -> None:
    told: list[str] = []
    refusals = Refusals(told.append, clock=Clock())

    for number in range(10 * MAX_KEYS):
        refusals.count(f"10.0.{number >> 8}.{number & 255}", "no key")
        refusals.tell()
    refusals.tell(everything=True)

    assert len(told) == MAX_KEYS + 2
    assert told[-1] == f"others: no key ({9 * MAX_KEYS - 1} times)"


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"security": None}, "sources[0].endpoint", "allow_plain"),
        (
            {
                "security": None,
                "sources": [{"endpoint": "tcp://192.168.1.2:5555"}],
            },
            "sources[0].endpoint",
            "make keys with `zsad keys new`",
        ),
        (
            {
                "security": None,
                "sources": [{"endpoint": "ipc:///f"}],
                "outputs": {"verdicts": {"endpoint": "tcp://*:6000"}},
            },
            "outputs.verdicts.endpoint",
            "is reachable from other machines",
        ),
        ({"http": {"listen": "0.0.0.0:9177"}}, "http.listen", "set `http.token"),
        ({"http": {"listen": "9177"}}, "http.listen", "is not HOST:PORT"),
        (
            {"security": {**SECURITY, "alowed_keys": "x"}},
            "security.alowed_keys",
            "did you mean 'allowed_keys'?",
        ),
    ],
)
def test_a_door_that_stands_open_is_a_configuration_error(
    tmp_path: Path, change: dict[str, object], place: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(tmp_path, **change))

    assert f"{place}: " in str(caught.value)
    assert words in str(caught.value)


def test_a_secret_in_the_file_is_refused_and_not_shown(tmp_path: Path) -> None:
    secret = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"  # noqa: S105 - of the CurveZMQ text
    security = {"server_secret": secret, "allowed_keys": "allowed"}

    with pytest.raises(ConfigError, match="this is a key itself") as caught:
        load_config(write_config(tmp_path, security=security))

    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        {"endpoint": "tcp://127.0.0.1:5555"},
        {"endpoint": "tcp://[::1]:5555", "mode": "bind"},
        {"endpoint": "ipc:///f"},
        {"endpoint": "tcp://192.168.1.2:5555", "allow_plain": True},
    ],
)
def test_local_sockets_and_allowed_ones_may_be_plain(
    tmp_path: Path, source: dict[str, object]
) -> None:
    load_config(write_config(tmp_path, security=None, sources=[source]))


def levels(
    capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, list[tuple[str, str, str]]]:
    capsys.readouterr()
    code = run("doctor", "--json", *words)
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert all(c["advice"] for c in checks if c["level"] != "OK")
    return code, [(c["level"], c["check"], c["text"]) for c in checks]


def good_installation(folder: Path) -> Path:
    run("keys", "new", "daemon", "--out", str(folder))
    run("keys", "new", "pc1", "--out", str(folder))
    config = write_config(folder, sources=[{"endpoint": f"ipc://{folder}/f", "mode": "bind"}])
    run("keys", "allow", str(folder / "pc1.key"), "--camera", "cam1", "--config", str(config))
    (folder / "allowed").chmod(0o755)
    return config


def test_doctor_finds_nothing_wrong_with_a_good_installation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = levels(capsys, "--config", str(good_installation(tmp_path)))

    assert (code, [line for line in found if line[0] == "FAIL"]) == (0, [])
    names = {name.split()[0] for _, name, _ in found}
    assert names >= {
        *("python", "package", "opencv", "cpu", "torch", "gpu", "weights", "clock", "service"),
        *("configuration", "daemon", "run_dir", "disk", "database", "endpoint", "keys"),
    }


@pytest.mark.parametrize(
    ("breakage", "check", "words"),
    [
        ("configuration", "configuration", "is not an IANA time zone"),
        ("weights", "weights v1", "its card says 000"),
        ("secret", "keys", "may be read by every user"),
        ("allowed", "keys", "may be written by others"),
        ("database", "database", "cannot"),
        ("endpoint", "endpoint", "cannot be written"),
        ("run_dir", "run_dir", "may be written by everyone"),
    ],
)
def test_doctor_names_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], breakage: str, check: str, words: str
) -> None:
    config = good_installation(tmp_path)
    sources = [{"endpoint": f"ipc://{tmp_path}/f", "mode": "bind"}]
    match breakage:
        case "configuration":
            write_config(tmp_path, timezone="Mars")
        case "weights":
            model = tmp_path / "v1"
            model.mkdir()
            (model / "card.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
            (model / "weights.safetensors").write_bytes(b"x")
            write_config(tmp_path, sources=sources, model={"checkpoint": "v1"})
        case "secret":
            (tmp_path / "daemon.key_secret").chmod(0o644)
        case "allowed":
            (tmp_path / "allowed" / "cam1.key").chmod(0o666)
        case "database":
            url = "postgresql://zsad@127.0.0.1:1/zsad"
            words = "127.0.0.1"
            write_config(tmp_path, sources=sources, storage={"url": url})
        case "endpoint":
            write_config(tmp_path, sources=[{"endpoint": "ipc:///absent/f", "mode": "bind"}])
        case "run_dir":
            (tmp_path / "run").mkdir()
            (tmp_path / "run").chmod(0o777)

    code, found = levels(capsys, "--config", str(config))

    failed = [(name, text) for level, name, text in found if level == "FAIL"]
    assert code == 1
    assert [name for name, _ in failed] == [check]
    assert words in failed[0][1]


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path

from daemon.security.allow_list import AllowList

folder, key = Path(sys.argv[1]), sys.argv[2]
allowed = AllowList(folder)
held = [os.open("/dev/null", os.O_RDONLY)]
resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, held[0] + 1))
os.utime(folder / "cam1.key", (1, 1))
allowed.refresh()
assert allowed.may_send("cam1", key)
os.close(held[0])
allowed.refresh()
assert allowed.may_send("cam1", key)
(folder / "cam1.key").write_text("")
allowed.refresh()
assert not allowed.may_send("cam1", key)
"""


def test_a_flood_that_takes_every_descriptor_changes_no_right(tmp_path: Path) -> None:
    key = new_key_pair().public
    allow_list.allow(tmp_path, AllowedKey("cam1", key, "pc1"))

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS, str(tmp_path), key],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
