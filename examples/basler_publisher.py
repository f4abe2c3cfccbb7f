"""A Basler camera as a sender of frames, with the vendor's own pypylon.

    pip install pypylon
    python examples/basler_publisher.py --endpoint tcp://*:5555 --camera cam1 --category fabric

Without a camera, pylon emulates one; everything else is the same program:

    PYLON_CAMEMU=1 python examples/basler_publisher.py --endpoint tcp://*:5555 --camera cam1 \
        --images path/to/folder

In the daemon's configuration, `sources: [{endpoint: tcp://CAMERA_PC:5555}]` and a camera of that
name receive it. Frames that the camera itself loses use up a number, so the daemon counts a gap.

With `--outbox FOLDER` every frame is kept until the daemon has stored its result, and the program
connects to a source with `socket: router` and `mode: bind`:

    python examples/basler_publisher.py --endpoint tcp://DAEMON:5557 --camera cam1 --outbox outbox
"""

import argparse
import sys
import time
from pathlib import Path

from pypylon import genicam, pylon

from daemon.ingest.publisher import FramePublisher
from daemon.ingest.reliable_publisher import ReliablePublisher
from daemon.ingest.wire import PixelFormat

RETRIEVE_TIMEOUT_MS = 5_000

# pylon's older names to the GenICam names that frames carry; first choice first.
PIXEL_FORMATS: dict[str, PixelFormat] = {
    "BayerRG8": "BayerRG8",
    "BGR8": "BGR8",
    "BGR8Packed": "BGR8",
    "RGB8": "RGB8",
    "RGB8Packed": "RGB8",
    "Mono8": "Mono8",
}


def main() -> int:
    """Stream until interrupted or `--count` frames were sent."""
    args = _arguments()
    try:
        device = pylon.TlFactory.GetInstance().CreateFirstDevice()
    except genicam.GenericException as error:
        sys.stderr.write(f"no Basler camera found: {error}\n")
        return 1
    camera = pylon.InstantCamera(device)
    camera.Open()
    try:
        pixel_format = _configure(camera, args)
        with _publisher(args) as publisher:
            if not publisher.wait_for_subscriber(args.wait_subscriber):
                sys.stderr.write("nobody receives yet; frames are dropped until somebody does\n")
            _stream(camera, publisher, pixel_format, args.count)
            sys.stdout.write(f"sent {publisher.sent} of {publisher.next_seq} frames\n")
    finally:
        camera.Close()
    return 0


def _publisher(args: argparse.Namespace) -> FramePublisher | ReliablePublisher:
    if args.outbox is not None:
        return ReliablePublisher(
            args.endpoint,
            args.camera,
            category=args.category,
            encoding=args.encoding,
            outbox=args.outbox,
        )
    return FramePublisher(
        args.endpoint,
        args.camera,
        category=args.category,
        socket=args.socket,
        encoding=args.encoding,
    )


def _stream(
    camera: pylon.InstantCamera,
    publisher: FramePublisher | ReliablePublisher,
    pixel_format: PixelFormat,
    count: int | None,
) -> None:
    next_block_id: int | None = None
    # OneByOne keeps every frame; when the buffers run out, block ids are missing.
    camera.StartGrabbing(pylon.GrabStrategy_OneByOne)
    try:
        while count is None or publisher.sent < count:
            with camera.RetrieveResult(
                RETRIEVE_TIMEOUT_MS, pylon.TimeoutHandling_ThrowException
            ) as grab:
                # Camera ticks are no Unix time, and the emulation has none: the host's clock.
                captured_ns = time.time_ns()
                block_id = grab.BlockID
                if next_block_id is not None and block_id > next_block_id:
                    publisher.skip(block_id - next_block_id)
                next_block_id = block_id + 1
                if not grab.GrabSucceeded():
                    sys.stderr.write(f"frame lost: {grab.GetErrorDescription()}\n")
                    publisher.skip(1)
                    continue
                publisher.send(grab.Array, pixel_format=pixel_format, captured_ns=captured_ns)
    except KeyboardInterrupt:
        pass
    finally:
        camera.StopGrabbing()


def _configure(camera: pylon.InstantCamera, args: argparse.Namespace) -> PixelFormat:
    """Set size, format and rate; returns the format by its GenICam name."""
    offered = camera.PixelFormat.Symbolics
    wanted = [args.pixel_format] if args.pixel_format else list(PIXEL_FORMATS)
    name = next((name for name in wanted if name in offered), None)
    if name is None:
        raise SystemExit(f"camera offers {', '.join(offered)}; none of {', '.join(wanted)}")
    camera.PixelFormat.Value = name
    if args.size is not None:
        camera.Width.Value, camera.Height.Value = args.size
    if args.images is not None:  # emulation only
        camera.ImageFileMode.Value = "On"
        camera.TestImageSelector.Value = "Off"
        camera.ImageFilename.Value = str(args.images)
    if args.rate is not None:
        camera.AcquisitionFrameRateEnable.Value = True
        # USB cameras call it AcquisitionFrameRate; GigE and the emulation ...Abs.
        is_newer = hasattr(camera, "AcquisitionFrameRate")
        rate = camera.AcquisitionFrameRate if is_newer else camera.AcquisitionFrameRateAbs
        rate.Value = args.rate
    return PIXEL_FORMATS[name]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Send a Basler camera's frames to the daemon.")
    parser.add_argument("--endpoint", required=True, help="for example tcp://*:5555")
    parser.add_argument("--camera", required=True, help="camera name as the daemon knows it")
    parser.add_argument("--category", help="product category")
    parser.add_argument("--rate", type=float, help="frames per second; the camera's own if absent")
    parser.add_argument("--count", type=int, help="stop after so many frames")
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--pixel-format", choices=sorted(PIXEL_FORMATS))
    parser.add_argument("--encoding", choices=("raw", "jpeg", "png"), default="raw")
    parser.add_argument("--socket", choices=("pub", "push"), default="pub")
    parser.add_argument("--outbox", type=Path, help="keep frames here until they are stored")
    parser.add_argument("--images", type=Path, help="emulation: file or folder to show")
    parser.add_argument("--wait-subscriber", type=float, default=10.0, metavar="S")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
