"""Which images the demo's two cameras show, and what is known of each.

The images are the simulated textiles of the PyPI package conformal-clip-data (MIT licence). The
embedded detector was not trained on them.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from daemon.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DemoFrame:
    """One image and its known label, which only the final comparison sees."""

    path: Path
    is_anomalous: bool


@dataclass(frozen=True, slots=True)
class DemoCamera:
    """What one camera publishes, in order: first known good parts, then a mix."""

    name: str
    category: str
    class_name: str
    frames: tuple[DemoFrame, ...]


def demo_cameras(*, learn_frames: int, judged_frames: int) -> tuple[DemoCamera, ...]:
    """Two cameras on fabric, one with local and one with global defects.

    Args:
        learn_frames: Good parts that each camera shows first.
        judged_frames: Parts that follow, good and defective in turn.

    Raises:
        ConfigError: the image package is not installed, or has fewer images than asked for.
    """
    try:
        import conformal_clip_data as textile
    except ImportError as error:
        raise ConfigError(
            "the demo images are missing; install them with: pip install conformal-clip-data==0.1.4"
        ) from error
    nominal = sorted(Path(textile.nominal_dir()).glob("*.jpg"))
    good_each = learn_frames + (judged_frames + 1) // 2
    cameras = []
    for number, (kind, folder) in enumerate(
        (("local", textile.local_dir()), ("global", textile.global_dir()))
    ):
        good = nominal[number * good_each : (number + 1) * good_each]
        defective = sorted(Path(folder).glob("*.jpg"))[: judged_frames // 2]
        if len(good) < good_each or len(defective) < judged_frames // 2:
            raise ConfigError(
                f"--frames {judged_frames} is more than the demo images allow "
                f"({len(nominal)} good, {len(defective)} with {kind} defects)"
            )
        learn = [DemoFrame(path, is_anomalous=False) for path in good[:learn_frames]]
        judged = _in_turn(
            [DemoFrame(path, is_anomalous=False) for path in good[learn_frames:]],
            [DemoFrame(path, is_anomalous=True) for path in defective],
        )
        cameras.append(
            DemoCamera(
                name=f"cam-{kind}",
                category=f"fabric-{kind}",
                class_name="woven fabric",
                frames=(*learn, *judged),
            )
        )
    return tuple(cameras)


def _in_turn(good: list[DemoFrame], defective: list[DemoFrame]) -> list[DemoFrame]:
    """Good, defective, good, ...; one more good at the end of an odd number."""
    paired = list(chain.from_iterable(zip(good, defective, strict=False)))
    return paired + good[len(defective) :]
