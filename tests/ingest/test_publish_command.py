import argparse
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.cli.publish import add_commands
from daemon.config.sources import SourceConfig
from daemon.errors import ConfigError

Image = NDArray[np.uint8]
StartIngest = Callable[..., Any]  # conftest's RunningIngest, which no test module can import


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    args = parser.parse_args(["publish", *arguments])
    code: int = args.run(args)
    return code


@pytest.fixture
def folder(tmp_path: Path, image: Image) -> Path:
    """Two PNGs, one JPEG in a folder below, and a file that is no picture."""
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    for name in ("a.png", "b.png", "more/c.jpg"):
        cv2.imwrite(str(root / name), image)
    (root / "notes.txt").write_text("no picture")
    return root


def options(endpoint: str, *more: str) -> list[str]:
    base = f"--endpoint {endpoint} --camera cam1 --category fabric --rate 200"
    return [*base.split(), *more]


def test_a_folder_is_a_camera(
    folder: Path,
    image: Image,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    code = run(str(folder), *options(endpoint, "--encoding", "png"))
    running.wait_for_received(3)

    frames = running.take_all()
    assert code == 0
    assert [frame.info.frame_id.seq for frame in frames] == [0, 1, 2]
    np.testing.assert_array_equal(frames[0].image, image[..., ::-1])
    epoch = frames[0].info.frame_id.epoch
    assert capsys.readouterr().out == f"camera cam1: sent 3 frames, epoch {epoch}\n"


@pytest.mark.parametrize(
    ("more", "part_ids"), [(["--part-ids"], ["a", "b", "c"]), ([], [None] * 3)]
)
def test_file_names_become_part_ids_if_asked(
    folder: Path,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    more: list[str],
    part_ids: list[str | None],
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    run(str(folder), *options(endpoint, *more))
    running.wait_for_received(3)

    assert [frame.info.part_id for frame in running.take_all()] == part_ids


def test_count_ends_a_loop(
    folder: Path, start_ingest: StartIngest, ipc_endpoints: Iterator[str]
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    assert run(str(folder), *options(endpoint, "--loop", "--count", "7")) == 0
    running.wait_for_received(7)

    assert running.camera().sent == 7


def test_a_video_is_a_camera(
    tmp_path: Path, start_ingest: StartIngest, ipc_endpoints: Iterator[str]
) -> None:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for grey in range(10):
        writer.write(np.full((48, 64, 3), grey * 20, np.uint8))
    writer.release()
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    assert run(str(path), *options(endpoint)) == 0
    running.wait_for_received(10)

    assert len(running.take_all()) == 10


def test_the_rate_is_kept(
    folder: Path, start_ingest: StartIngest, ipc_endpoints: Iterator[str]
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    run(str(folder), *options(endpoint, "--loop", "--count", "11", "--rate", "50"))
    running.wait_for_received(11)

    frames = running.take_all()
    elapsed = frames[-1].info.captured_utc - frames[0].info.captured_utc
    assert 0.15 < elapsed.total_seconds() < 2.0


def test_an_unreadable_file_is_named_and_the_rest_is_sent(
    folder: Path,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "broken.png").write_bytes(b"no png")
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint))

    code = run(str(folder), *options(endpoint))
    running.wait_for_received(3)

    captured = capsys.readouterr()
    assert code == 1
    assert "broken.png" in captured.err
    assert "sent 3 frames" in captured.out
    assert "1 files unreadable" in captured.out


def test_nobody_receiving_is_said(
    folder: Path, ipc_endpoints: Iterator[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(str(folder), *options(next(ipc_endpoints), "--wait-subscriber", "0.05"))

    assert code == 1
    assert "nobody receives" in capsys.readouterr().err


def test_wrong_paths_endpoints_and_names_are_configuration_errors(
    folder: Path, tmp_path: Path, ipc_endpoints: Iterator[str]
) -> None:
    (tmp_path / "empty").mkdir()
    endpoint = next(ipc_endpoints)

    with pytest.raises(ConfigError, match="does not exist"):
        run(str(tmp_path / "absent"), *options(endpoint))
    with pytest.raises(ConfigError, match="no image or video"):
        run(str(tmp_path / "empty"), *options(endpoint))
    with pytest.raises(ConfigError, match="cannot bind"):
        run(str(folder), *options("tcp://nonsense"))
    with pytest.raises(ConfigError, match="camera"):
        run(str(folder), "--endpoint", endpoint, "--camera", "x" * 65)


@pytest.mark.parametrize("wrong", [["--rate", "0"], ["--rate", "nan"], ["--count", "0"]])
def test_numbers_out_of_range_are_usage_errors(wrong: list[str], folder: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        run(str(folder), *options("ipc://x", *wrong))

    assert caught.value.code == 2


def test_push_waits_for_the_receiver_and_loses_nothing(
    folder: Path, start_ingest: StartIngest, ipc_endpoints: Iterator[str]
) -> None:
    endpoint = next(ipc_endpoints)
    codes: list[int] = []
    arguments = options(endpoint, "--socket", "push", "--mode", "connect")
    sender = threading.Thread(target=lambda: codes.append(run(str(folder), *arguments)))
    sender.start()

    running = start_ingest(SourceConfig(endpoint=endpoint, socket="pull", mode="bind"))
    running.wait_for_received(3)
    sender.join(20)

    assert codes == [0]
    assert (running.camera().sent, running.losses) == (3, [])


def test_dealer_waits_until_everything_is_stored(
    folder: Path,
    start_ingest: StartIngest,
    ipc_endpoints: Iterator[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    endpoint = next(ipc_endpoints)
    running = start_ingest(SourceConfig(endpoint=endpoint, socket="router", mode="bind"))
    codes: list[int] = []
    arguments = options(endpoint, "--socket", "dealer", "--outbox", str(folder.parent / "outbox"))
    sender = threading.Thread(target=lambda: codes.append(run(str(folder), *arguments)))
    sender.start()

    frames = [running.frames.get(timeout_s=20) for _ in range(3)]
    assert not codes, "received is not stored"
    running.subscriber.stored(frame.info.frame_id for frame in frames)
    sender.join(20)

    assert codes == [0]
    assert "sent 3 frames" in capsys.readouterr().out


def test_an_outbox_needs_the_reliable_socket(folder: Path, ipc_endpoints: Iterator[str]) -> None:
    with pytest.raises(ConfigError, match="--socket dealer"):
        run(str(folder), *options(next(ipc_endpoints), "--outbox", "somewhere"))
