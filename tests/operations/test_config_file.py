import contextlib
from collections.abc import Callable
from datetime import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from daemon.config_file import MAX_FILE_BYTES, ConfigFileError, hide_password, load_config
from daemon.errors import ConfigError

WriteConfig = Callable[..., Path]


def problems_of(path: Path) -> list[tuple[int, int, str, str]]:
    with pytest.raises(ConfigFileError) as caught:
        load_config(path)
    return [(p.line, p.column, p.key, p.message) for p in caught.value.problems]


def only_problem_of(path: Path) -> tuple[int, int, str, str]:
    (problem,) = problems_of(path)
    return problem


def test_relative_paths_start_at_the_file(write_config: WriteConfig, tmp_path: Path) -> None:
    path = write_config(("run_dir: run", "run_dir: run\nmodel: {checkpoint: models/v1}"))

    config = load_config(path)

    assert config.run_dir == tmp_path / "run"
    assert config.model.checkpoint == tmp_path / "models/v1"
    assert config.storage.url == f"sqlite:///{tmp_path}/results.db"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/lib/zsad/zsad.db",
        "postgresql://zsad:${ZSAD_DB_PASSWORD}@db/zsad",
        "sqlite:///${ZSAD_DIR}/zsad.db",
        "${ZSAD_URL}",
    ],
)
def test_other_urls_stay_as_written(write_config: WriteConfig, url: str) -> None:
    path = write_config(("sqlite:///results.db", url))

    assert load_config(path).storage.url == url


def test_an_unquoted_shift_start_is_a_time_of_day(write_config: WriteConfig) -> None:
    config = load_config(write_config(("18:00", "18:30:15")))

    assert [shift.start for shift in config.shifts] == [time(6, 0), time(18, 30, 15)]


@pytest.mark.parametrize("start", ["6", "600", "24:00", "06:60", "06:00Z", "6.5", "06:00:00.5"])
def test_what_only_looks_like_a_time_is_refused(write_config: WriteConfig, start: str) -> None:
    line, column, key, message = only_problem_of(write_config(("06:00", start)))

    assert (line, column, key) == (14, 5, "shifts[0].start")
    assert message.startswith(f"{start!r} is not a time of day such as 06:00")


@pytest.mark.parametrize("word", ["NO", "on", "off", "yes", "y", "true", "010", "1e3", "0x10"])
def test_a_name_stays_the_text_that_was_written(write_config: WriteConfig, word: str) -> None:
    path = write_config(("fabric:", f"{word}:"), ("  cam1:", f"  cam1: {{category: {word}}}"))

    config = load_config(path)

    assert config.cameras["cam1"].category == word
    assert list(config.categories) == [word]


def test_every_error_is_reported_with_its_place(write_config: WriteConfig) -> None:
    path = write_config(
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:99999\n    sokcet: sub"),
        ("Europe/Berlin", "Europe/Berln"),
        ("shifts:", "batch: {max_batch_size: 0, max_queue_delay_ms: .nan}\nbach: 1\nshifts:"),
        ("  url: sqlite:///results.db", "  max_results: many"),
    )

    assert problems_of(path) == [
        (
            2,
            1,
            "timezone",
            "'Europe/Berln' is not an IANA time zone; did you mean Europe/Berlin?",
        ),
        (
            5,
            5,
            "sources[0].endpoint",
            "'tcp://127.0.0.1:99999' is not tcp://HOST:PORT with a port from 1 to 65535",
        ),
        (6, 5, "sources[0].sokcet", "unknown key; did you mean 'socket'?"),
        (11, 1, "storage.url", "this key is required: add it"),
        (12, 3, "storage.max_results", "'many' must be a whole number"),
        (13, 9, "batch.max_batch_size", "'0' must be greater than or equal to 1"),
        (13, 28, "batch.max_queue_delay_ms", "'.nan' must be a number"),
        (14, 1, "bach", "unknown key; did you mean 'batch'?"),
    ]


def test_the_error_text_starts_each_line_with_file_line_column(write_config: WriteConfig) -> None:
    path = write_config(("line: L1", "line: L 1"), ("  cam1:", "  cam 1:"))

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    head, *lines = str(caught.value).splitlines()
    assert head == f"2 errors in {path}"
    assert [line.split(": ")[0] for line in lines] == [f"{path}:1:1", f"{path}:7:3"]


def test_a_category_that_does_not_exist_is_found(write_config: WriteConfig) -> None:
    path = write_config(("  cam1:", "  cam1: {category: fabrik}"))

    assert only_problem_of(path) == (
        7,
        10,
        "cameras.cam1.category",
        "'fabrik' is not among the categories ['fabric']",
    )


def test_contradicting_rates_are_found(write_config: WriteConfig) -> None:
    path = write_config(("woven fabric}", "woven fabric, review_rate: 0.01, ng_rate: 0.02}"))

    line, _, key, message = only_problem_of(path)

    assert (line, key) == (9, "categories.fabric.ng_rate")
    assert message.startswith("0.02 is above review_rate 0.01")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("18:00", "06:00", "shifts[1].start"),
        ("name: late", "name: early", "shifts[1].name"),
        (
            "cameras:",
            "  - endpoint: tcp://127.0.0.1:5555\ncameras:",
            "sources[1].endpoint",
        ),
    ],
)
def test_repeated_values_are_found(write_config: WriteConfig, old: str, new: str, key: str) -> None:
    _, _, found, message = only_problem_of(write_config((old, new)))

    assert found == key
    assert "stands twice" in message


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("tcp://*:5555", "only `mode: bind`"),
        ("tcp://host", "is not tcp://HOST:PORT"),
        ("ipc://relative", "is not ipc:///ABSOLUTE/PATH"),
        (f"ipc:///{'a' * 200}", "limit is 107"),
        ("http://host:80", "is not a ZeroMQ endpoint"),
    ],
)
def test_endpoints_that_cannot_work_are_refused(
    write_config: WriteConfig, endpoint: str, reason: str
) -> None:
    _, _, key, message = only_problem_of(write_config(("tcp://127.0.0.1:5555", endpoint)))

    assert key == "sources[0].endpoint"
    assert reason in message


def test_a_repeated_key_is_found(write_config: WriteConfig) -> None:
    path = write_config(("timezone:", "line: L2\ntimezone:"))

    assert only_problem_of(path) == (
        2,
        1,
        "line",
        "key 'line' stands here and in line 1: remove one",
    )


def test_an_alias_bomb_is_refused_unexpanded(write_config: WriteConfig) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )

    messages = [message for *_, message in problems_of(write_config(text=bomb))]

    assert "anchor &a0 is not supported: remove it" in messages
    assert "alias *a0 is not supported: write the value out" in messages


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n", "must be a mapping of keys"),
        ("line: [", "not valid YAML"),
        ("[" * 5000, "nested deeper than 20 levels"),
        ("line: L1\n---\nline: L2\n", "a second document begins here"),
        ("? [a, b]\n: c\n", "a key must be plain text"),
        ("line: !!python/object:os.system x\n", "is not supported: remove it"),
        ("line: a\x01b\n", "U+0001 is not allowed"),
        ('line: "\\UFFFFFFFF"\n', "not valid YAML"),
        ("# " + "x" * MAX_FILE_BYTES, f"larger than {MAX_FILE_BYTES} bytes"),
    ],
)
def test_a_file_that_is_no_configuration_says_why(
    write_config: WriteConfig, text: str, reason: str
) -> None:
    messages = [message for *_, message in problems_of(write_config(text=text))]

    assert any(reason in message for message in messages)


def test_bytes_that_are_not_utf8_are_placed(tmp_path: Path) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_bytes(b"line: L1\nx: \xff\n")

    assert only_problem_of(path) == (2, 4, "", "byte 0xff is not UTF-8: save the file as UTF-8")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml:1:1: cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_a_password_is_not_shown_in_errors(write_config: WriteConfig) -> None:
    path = write_config(("sqlite:///results.db", "mysql://zsad:s3cret@db/zsad"))

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert "mysql://zsad:***@db/zsad" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@ss:w/rd@h:1/d", "postgresql://u:***@h:1/d"),
        ("postgresql://u@h/d?password=x&a=b", "postgresql://u@h/d?password=***&a=b"),
        ("sqlite:////var/a:b/c.db", "sqlite:////var/a:b/c.db"),
    ],
)
def test_hide_password_leaves_the_rest(url: str, shown: str) -> None:
    assert hide_password(url) == shown


yaml_like = (
    st.text(alphabet=st.sampled_from("ab:-{}[]&*!|>'\"%@#?,~<\\ \n\t0.U\x00\ud7ff")) | st.text()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(text=yaml_like)
@example(text="%YAML 99999999999999999999.1\n---\na")
@example(text="%YAML " + "9" * 5000 + ".1\n---\na")
@example(text='"\\U00110000"')
@example(text="a: !<%ff> b")
@example(text="{" * 50)
def test_any_text_raises_only_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    with pytest.raises(ConfigError):
        load_config(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(position=st.integers(0, 279), garbage=st.binary(max_size=4))
def test_a_damaged_configuration_loads_or_raises_config_error(
    write_config: WriteConfig, position: int, garbage: bytes
) -> None:
    path = write_config()
    raw = path.read_bytes()
    path.write_bytes(raw[:position] + garbage + raw[position:])

    with contextlib.suppress(ConfigError):
        load_config(path)
