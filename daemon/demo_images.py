"""Which images the demo's two cameras show, and what is known of each.

The images are the simulated textiles of the PyPI package conformal-clip-data (MIT licence). The
embedded detector was not trained on them.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from daemon.errors import ConfigError

REFERENCES = 16
PARTS_MEANWHILE = 24
"""Good parts that pass while a bank is learnt from the references; they make no thresholds."""


@dataclass(frozen=True, slots=True)
class DemoFrame:
    """One image and its known label, which only the final comparison sees."""

    path: Path
    is_anomalous: bool


@dataclass(frozen=True, slots=True)
class DemoCamera:
    """What one camera publishes, in order: first known good parts, then a mix.

    Attributes:
        references: Good parts of which its category learns what the product looks like; 0 is
            pure zero-shot.
    """

    name: str
    category: str
    class_name: str
    references: int
    frames: tuple[DemoFrame, ...]


def demo_cameras(*, learn_frames: int, judged_frames: int) -> tuple[DemoCamera, ...]:
    """Two cameras on fabric: local defects zero-shot, global ones with references.

    A piece of another weave is no defect to somebody who never saw the fabric.

    Args:
        learn_frames: Good parts for thresholds that each camera shows first, after those for
            references.
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
    cameras = []
    for number, (kind, folder, references) in enumerate(
        (("local", textile.local_dir(), 0), ("global", textile.global_dir(), REFERENCES))
    ):
        first = learn_frames + (references + PARTS_MEANWHILE if references else 0)
        good = _spread(nominal[number::2], first + (judged_frames + 1) // 2)
        defective = _spread(sorted(Path(folder).glob("*.jpg")), judged_frames // 2)
        learn = [DemoFrame(path, is_anomalous=False) for path in good[:first]]
        judged = _in_turn(
            [DemoFrame(path, is_anomalous=False) for path in good[first:]],
            [DemoFrame(path, is_anomalous=True) for path in defective],
        )
        cameras.append(
            DemoCamera(
                name=f"cam-{kind}",
                category=f"fabric-{kind}",
                class_name="woven fabric",
                references=references,
                frames=(*learn, *judged),
            )
        )
    return tuple(cameras)


def _spread(paths: list[Path], count: int) -> list[Path]:
    """`count` of the images, evenly over all of them: neighbours were made alike."""
    if count > len(paths):
        raise ConfigError(
            f"--frames asks for {count} images of {paths[0].parent.name}, there are {len(paths)}: "
            "take fewer"
        )
    return [paths[index * len(paths) // count] for index in range(count)]


def _in_turn(good: list[DemoFrame], defective: list[DemoFrame]) -> list[DemoFrame]:
    """Good, defective, good, ...; one more good at the end of an odd number."""
    paired = list(chain.from_iterable(zip(good, defective, strict=False)))
    return paired + good[len(defective) :]
