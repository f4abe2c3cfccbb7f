"""The values that travel between the stages; frozen, and free of any transport or database."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""RGB uint8 [H, W, 3]; BGR never leaves the function that calls OpenCV."""

Stage = Literal["receive", "decode", "queue", "infer", "post", "draw", "store"]
"""Where a frame spends its time: off the socket and checked, decoded, waiting for the detector, in
the detector, decided and drawn, stored."""

ScoreMap = NDArray[np.float32]
"""Anomaly map, float32 [H, W] in [0, 1], higher is more anomalous."""


class Verdict(StrEnum):
    """The decision on one frame. A frame that was not inspected is never OK."""

    OK = "OK"
    NG = "NG"
    REVIEW = "REVIEW"
    LEARNING = "LEARNING"  # inspected, but its category has no calibration yet
    ERROR = "ERROR"  # identified, but could not be inspected; `error_reason` says why


INSPECTED_VERDICTS = (Verdict.OK, Verdict.NG, Verdict.REVIEW, Verdict.LEARNING)


class LossReason(StrEnum):
    """Why a frame was not inspected. Every reason but GAP counts frames that were received."""

    GAP = "gap"  # numbers missing in a camera's sequence: sent, never received
    BAD_MESSAGE = "bad_message"  # unreadable parts or header: which frame it was is unknown
    TOO_LARGE = "too_large"  # header, payload or pixel count over its limit
    BAD_PAYLOAD = "bad_payload"  # truncated or undecodable image, dtype or shape that lies
    UNKNOWN_CAMERA = "unknown_camera"
    UNKNOWN_CATEGORY = "unknown_category"
    CLOCK = "clock"  # capture time too far from the daemon's clock
    DUPLICATE = "duplicate"  # (camera, epoch, seq) was seen before
    NOT_ALLOWED = "not_allowed"  # the sender's key is not one of the camera's
    TOO_FAST = "too_fast"  # over limits.max_frames_per_second of its camera
    QUEUE_FULL = "queue_full"  # dropped by the queue's policy
    INFERENCE_FAILED = "inference_failed"
    FLAT = "flat"  # an image without contrast: a dead sensor, a covered lens
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    BLURRED = "blurred"
    FROZEN = "frozen"  # the camera keeps sending the same image
    WRONG_SIZE = "wrong_size"


class EventKind(StrEnum):
    """What happened to the line, apart from its frames. The word is stored; it never changes."""

    STARTED = "started"
    STOPPED = "stopped"
    SOURCE_WAITS = "source_waits"  # its address is not there yet; the other sources receive
    SOURCE_OPEN = "source_open"
    CLIENT_REFUSED = "client_refused"  # no key, a wrong one, or another camera's
    HTTP_UNAVAILABLE = "http_unavailable"  # health and metrics cannot be asked
    HTTP_AVAILABLE = "http_available"
    OUTPUT_FAILS = "output_fails"  # a broker or web server takes no verdicts
    OUTPUT_RECOVERED = "output_recovered"
    SPOOLING = "spooling"  # the database is away or slow; results wait on disk
    SPOOL_EMPTY = "spool_empty"  # it has taken them all
    SPOOL_REJECTED = "spool_rejected"  # a batch that no attempt will store was put aside
    STORAGE_BLOCKED = "storage_blocked"  # neither database nor spool takes results
    DISK_LOW = "disk_low"  # pictures are left out
    DISK_RECOVERED = "disk_recovered"
    PRUNED = "pruned"  # retention removed something
    CLOCK_DOUBTED = "clock_doubted"  # it stands where it cannot be: nothing goes for its age
    CLOCK_BELIEVED = "clock_believed"
    DATABASE_FULL_SOON = "database_full_soon"
    PARTITION_MISSED = "partition_missed"  # pictures of a day that was not prepared for
    CONFIG_CHANGED = "config_changed"
    CONFIG_REFUSED = "config_refused"  # the file is wrong; the old configuration goes on
    REFERENCES_LEARNT = "references_learnt"  # a category has another reference bank
    REFERENCES_BAD = "references_bad"  # a bank is damaged, or cannot be made or kept
    IMAGES_BAD = "images_bad"  # a camera's images are not fit to be inspected
    IMAGES_GOOD = "images_good"
    SCORES_DRIFTED = "scores_drifted"  # thresholds no longer mean what they did
    SCORES_SETTLED = "scores_settled"
    FRAMES_NOT_KEPT = "frames_not_kept"  # whole frames are left out: no room, or a slow disk
    FRAMES_KEPT = "frames_kept"  # they are kept again
    MODEL_PROPOSED = "model_proposed"  # a candidate scores live frames beside the active model
    MODEL_WAITS = "model_waits"  # a candidate waits for a person
    MODEL_PROMOTED = "model_promoted"  # it is to be the active one
    MODEL_SWAPPED = "model_swapped"  # the line inspects with another model from now on
    MODEL_CONFIRMED = "model_confirmed"  # its verdicts stayed in their band
    MODEL_REJECTED = "model_rejected"
    MODEL_ROLLED_BACK = "model_rolled_back"
    NIGHT = "night"  # what the nightly training did, or why it did nothing
    MODEL_BAD = "model_bad"  # a model cannot be loaded or does not reproduce itself


class Severity(StrEnum):
    """How soon a person has to look."""

    INFO = "info"
    WARNING = "warning"  # degraded, but handled
    ALARM = "alarm"  # someone must act


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the line's diary.

    Attributes:
        detail: One sentence with the value and the limit, for people.
    """

    kind: EventKind
    severity: Severity
    at_utc: datetime
    detail: str
    camera: str | None = None
    category: str | None = None


def with_references(model_version: str, bank_id: str | None) -> str:
    """The model version of scores that a reference bank enters; None while it is being learnt."""
    return f"{model_version}+refs-{bank_id or 'none'}"


def base_version(model_version: str) -> str:
    """The version of the weights alone."""
    return model_version.partition("+")[0]


@dataclass(frozen=True, slots=True)
class FrameId:
    """What makes a frame unique: a camera, one start of its publisher, a running number."""

    camera: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """What is known of a frame apart from its pixels.

    Attributes:
        category: Product category as configured.
        captured_utc: Capture time by the camera's clock.
        received_utc: When the daemon took it off the socket, by the daemon's clock.
        received_at: The same instant, monotonic seconds; latency is measured from here.
    """

    frame_id: FrameId
    category: str
    captured_utc: datetime
    received_utc: datetime
    received_at: float
    part_id: str | None = None
    lot: str | None = None
    trigger_id: str | None = None


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image as the camera encoded it.

    Attributes:
        suffix: Of a file with this content.
    """

    suffix: Literal["jpg", "png"]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame on its way to the detector.

    Attributes:
        decoded_at: Monotonic seconds, for measuring how long it waits; None if not known.
        file: What it was decoded from, where whole frames are kept; None for raw pixels.
        taken_px: Height and width as the camera took it, where `image` may be decoded smaller;
            None where it is not.
    """

    info: FrameInfo
    image: Image
    decoded_at: float | None = None
    file: ImageFile | None = None
    taken_px: tuple[int, int] | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width as the camera took it."""
        height, width = self.image.shape[:2]
        return self.taken_px or (height, width)


@dataclass(frozen=True, slots=True)
class FrameLoss:
    """One frame, or for GAP a run of frames, that was not inspected and has no inspection row.

    Attributes:
        camera: None where the message did not say.
        first_seq, last_seq: Inclusive; None where unknown. Equal except for GAP.
        detail: One sentence with the value and the limit.
    """

    reason: LossReason
    lost_utc: datetime
    detail: str
    camera: str | None = None
    category: str | None = None
    epoch: int | None = None
    first_seq: int | None = None
    last_seq: int | None = None

    @property
    def frames(self) -> int:
        """How many frames this record stands for."""
        if self.first_seq is None or self.last_seq is None:
            return 1
        return self.last_seq - self.first_seq + 1


@dataclass(frozen=True, slots=True)
class Region:
    """A connected component of the map over the NG threshold, in pixels of the frame.

    Attributes:
        peak: Highest map value inside, in [0, 1].
    """

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    area_px: int
    peak: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds for one category under one model version; scores of two versions do not compare.

    A score below `review_threshold` is OK, from `ng_threshold` on it is NG, between REVIEW.

    Attributes:
        map_threshold: A map value from here on belongs to a region.
        n_frames: OK frames the thresholds were computed from.
        is_supported: Whether n_frames suffices for both wanted rates; if not, the tighter
            threshold is the largest OK score seen.
        confidence: With which the rates hold for this very calibration; None: on average.
        recipe: `CategoryConfig.recipe` that the scores were made with; None: made before there
            were recipes, for the whole frame.
        median_score: Of the OK frames; with it and `review_rank` a drift is noticed.
        review_rank: So many of the OK scores lie below `review_threshold`.
    """

    category: str
    model_version: str
    review_threshold: float
    ng_threshold: float
    map_threshold: float
    n_frames: int
    review_rate: float
    ng_rate: float
    is_supported: bool
    source: str
    created_utc: datetime
    confidence: float | None = None
    recipe: str | None = None
    median_score: float | None = None
    review_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Small pictures of one inspection.

    Attributes:
        photo_jpeg: The frame, shrunk.
        overlay_jpeg: The frame with its heat map over it.
        map_png: The map alone, 8-bit grey; 255 is map value 1.
    """

    photo_jpeg: bytes
    overlay_jpeg: bytes
    map_png: bytes


@dataclass(frozen=True, slots=True)
class Inspection:
    """The stored outcome of one identified frame.

    Attributes:
        pred_score: Raw image score in [0, 1]; None for ERROR.
        calibration: In force when the verdict was made; None for LEARNING and ERROR.
        map_peak: Highest value of the raw map; None for ERROR.
        decided_utc: When the verdict was made.
        frame_to_verdict_s: From receipt to verdict, monotonic.
    """

    info: FrameInfo
    verdict: Verdict
    model_version: str
    decided_utc: datetime
    frame_to_verdict_s: float
    width_px: int | None = None
    height_px: int | None = None
    pred_score: float | None = None
    map_peak: float | None = None
    calibration: Calibration | None = None
    regions: tuple[Region, ...] = field(default=())
    thumbnails: Thumbnails | None = None
    error_reason: LossReason | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """A whole frame whose file is complete on the disk.

    Attributes:
        path: Relative to the folder of frames.
        sha256: Of the file, in hexadecimal digits.
    """

    frame_id: FrameId
    category: str
    verdict: Verdict
    received_utc: datetime
    path: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShadowScore:
    """What a candidate said of a live frame, beside the active model's verdict.

    Attributes:
        version: Of the candidate.
        verdict, pred_score: The active model's.
        shadow_verdict: The candidate's; ERROR where it said nothing that is a score.
        shadow_score: In [0, 1]; None for ERROR.
    """

    frame_id: FrameId
    category: str
    version: str
    at_utc: datetime
    verdict: Verdict
    pred_score: float
    shadow_verdict: Verdict
    shadow_score: float | None


class LabelVerdict(StrEnum):
    """What a person says of a frame."""

    OK = "OK"
    NG = "NG"
    UNCERTAIN = "UNCERTAIN"  # looked at, and could not be told


@dataclass(frozen=True, slots=True)
class Label:
    """What a person said of one inspection; the newest is in force, older ones are history.

    Attributes:
        source: How it came in: "cli", or "import:" and a file format.
        defect: None for OK, or where nobody named it.
        mask_png: Where the defect is, a PNG that is 0 elsewhere, in the proportions of the frame;
            None for OK.
    """

    inspection_id: int
    verdict: LabelVerdict
    author: str
    at_utc: datetime
    source: str
    defect: str | None = None
    mask_png: bytes | None = None
    note: str | None = None
