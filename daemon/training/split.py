"""Which labelled frames are learnt from and which are only measured on; pure.

Frames of one part, one lot or one hour of a camera look alike, so they stay on one side: a model
measured on what it has nearly seen looks better than it is.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

HELD_OUT_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Group:
    """Labelled frames of one category that stay together.

    Attributes:
        has_ng: Whether one of them is labelled NG; NG and other groups are shared out apart.
    """

    category: str
    key: str
    has_ng: bool


@dataclass(frozen=True, slots=True)
class Member:
    """One frame of the split, as far as `shortages` looks at it."""

    category: str
    group_key: str
    is_held_out: bool
    is_ng: bool


def group_key(*, camera: str, part_id: str | None, lot: str | None, received_utc: datetime) -> str:
    """What a frame may not be parted from: its part, else its lot, else the camera's hour."""
    if part_id is not None:
        return f"part:{part_id}"
    if lot is not None:
        return f"lot:{lot}"
    return f"hour:{camera}:{received_utc.astimezone(UTC):%Y-%m-%dT%H}Z"


def assign(
    groups: Iterable[Group], frozen: Mapping[tuple[str, str], bool]
) -> dict[tuple[str, str], bool]:
    """Whether each group is held out, by (category, key).

    Frozen groups keep their side, and a key stands on the same side in all categories: a part
    that two cameras see is one part. New keys come in the order of their hash, and are held out
    while less than a third of their like is.

    Args:
        groups: At most one of each category and key.
        frozen: Sides that earlier snapshots gave, of these and any other groups.
    """
    by_key: dict[str, list[Group]] = {}
    for group in groups:
        by_key.setdefault(group.key, []).append(group)
    sides = {key: is_held_out for (_, key), is_held_out in frozen.items()}
    shares: dict[tuple[str, bool], _Share] = {}

    def place(key: str) -> None:
        for group in by_key[key]:
            share = shares.setdefault((group.category, group.has_ng), _Share())
            share.groups += 1
            share.held_out += sides[key]

    new = [key for key in by_key if key not in sides]
    for key in by_key.keys() - set(new):
        place(key)
    for key in sorted(new, key=_draw):
        alike = [shares.get((group.category, group.has_ng), _Share()) for group in by_key[key]]
        sides[key] = sum(share.missing for share in alike) > 0
        place(key)
    return {(group.category, key): sides[key] for key, alike in by_key.items() for group in alike}


def shortages(members: Sequence[Member]) -> tuple[str, ...]:
    """What a split cannot show, one sentence each: a side or a kind of frame is missing."""
    categories = sorted({member.category for member in members})
    return tuple(
        sentence
        for category in categories
        for sentence in _shortages(
            category, [member for member in members if member.category == category]
        )
    )


def _shortages(category: str, members: Sequence[Member]) -> list[str]:
    keys = {member.group_key for member in members}
    if len(keys) == 1:
        return [
            f"category {category!r}: all {len(members)} labelled frames belong together "
            f"({keys.pop()}), so none can be held out to measure on: label frames of other parts, "
            "lots or hours"
        ]
    found = []
    for is_ng, word in ((False, "OK"), (True, "NG")):
        alike = [member for member in members if member.is_ng is is_ng]
        if not alike:
            found.append(f"category {category!r}: no frame is labelled {word}")
            continue
        for is_held_out, use in ((True, "measure on"), (False, "learn from")):
            if all(member.is_held_out is not is_held_out for member in alike):
                count = len({member.group_key for member in alike})
                found.append(
                    f"category {category!r}: none of the {len(alike)} {word} frames is left to "
                    f"{use}, for they are of {count} parts, lots or hours: label {word} frames "
                    "of others"
                )
    return found


@dataclass(slots=True)
class _Share:
    groups: int = 0
    held_out: int = 0

    @property
    def missing(self) -> int:
        """Groups that one more should bring to the held-out side; negative: too many are."""
        return round((self.groups + 1) * HELD_OUT_SHARE) - self.held_out


def _draw(key: str) -> bytes:
    """Random to the eye, and the same on every machine."""
    return hashlib.sha256(key.encode()).digest()
