"""Where frames come from, and what one may cost."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from daemon.config.section import CrossCheckError, Endpoint, Name, Section


class SourceConfig(Section):
    """One ZeroMQ socket that frames arrive on.

    Attributes:
        endpoint: For example `tcp://127.0.0.1:5555` or `ipc:///run/zsad/frames`.
        socket: `sub` may drop under load (gaps are counted), `pull` holds the sender back,
            `router` acknowledges each frame once its result is in the database.
        mode: `connect` to publishers that bind (the default), or `bind`.
        camera: Camera name for imagezmq senders whose message names none.
        allow_plain: No keys, although other machines reach it or `security:` is configured.
        stale_after_s: Without a message for so long, the source is shown as stale.
        credit: For `router`: frames of one publisher that may be on their way to the database.
        max_publishers: For `router`; times `credit` it bounds the frames in memory.
    """

    endpoint: Endpoint
    socket: Literal["sub", "pull", "router"] = "sub"
    mode: Literal["connect", "bind"] = "connect"
    camera: Name | None = None
    allow_plain: bool = False
    stale_after_s: Annotated[float, Field(ge=2, le=86_400)] = 10.0
    credit: Annotated[int, Field(ge=1, le=1024)] = 32
    max_publishers: Annotated[int, Field(ge=1, le=1024)] = 16

    @model_validator(mode="after")
    def _connects_to_somewhere(self) -> Self:
        if self.mode == "connect" and self.endpoint.startswith(("tcp://*:", "tcp://0.0.0.0:")):
            raise CrossCheckError(
                [
                    (
                        ("endpoint",),
                        f"{self.endpoint!r} means every address, which only `mode: bind` can use: "
                        "name the host that publishes",
                    )
                ]
            )
        return self


Priority = Literal["low", "normal", "high"]


class CameraConfig(Section):
    """One camera that may send frames.

    Attributes:
        category: Used when a frame names none (imagezmq frames never do).
        priority: Frames of a higher one are inspected first and dropped last. While the line is
            overloaded, those of a lower one may not be inspected at all.
    """

    category: Name | None = None
    priority: Priority = "normal"


class QueueConfig(Section):
    """The queue between sockets and detector.

    Attributes:
        drop_policy: When it is full: `drop_oldest` keeps what is freshest, `drop_newest` keeps
            what came first, `block` stops reading the sockets (right for `pull`). The camera with
            the most frames waiting loses one.
    """

    max_frames: Annotated[int, Field(ge=1, le=10_000)] = 64
    drop_policy: Literal["drop_oldest", "drop_newest", "block"] = "drop_oldest"


class LimitsConfig(Section):
    """Bounds on what a frame may cost.

    Attributes:
        max_frames_per_second: Of one camera; what a `sub` or `pull` source brings beyond it is
            lost and counted. A `router` source holds its senders back by `credit` instead.
            None sets no bound.
        max_clock_skew_s: A capture time further ahead of the daemon's clock is an error.
    """

    max_payload_bytes: Annotated[int, Field(ge=1024, le=1 << 31)] = 64 << 20
    max_pixels: Annotated[int, Field(ge=1024, le=400_000_000)] = 32_000_000
    max_frames_per_second: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    max_clock_skew_s: Annotated[float, Field(gt=0)] = 60.0
