"""Training views drawn once, embedded once, kept in files: epochs then cost no decoding and no CNN.

Refuses to know what an embedding is; it stores one float16 array a view.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsad.corpus import Image, View

CHUNK = 50
"""Views a file; what a killed run has to make again."""

Embed = Callable[[list[Image]], NDArray[np.float16]]
"""Images [S, S, 3] -> [B, ...]."""
Draw = Callable[[int], View]


@dataclass(frozen=True, slots=True)
class ViewStore:
    """All views of a training run, in order.

    Attributes:
        embedded: One memory-mapped [50, ...] float16 array a chunk; the last may be shorter.
        images: One memory-mapped [50, S, S, 3] uint8 array a chunk, likewise.
        masks: [V, S * S / 8] uint8, packed bits.
        labels: [V] bool.
        class_names: V nouns.
        side: S.
    """

    embedded: list[NDArray[np.float16]]
    images: list[NDArray[np.uint8]]
    masks: NDArray[np.uint8]
    labels: NDArray[np.bool_]
    class_names: list[str]
    side: int

    def __len__(self) -> int:
        return len(self.labels)

    def embeddings(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float16]:
        """[B, ...] of the given views."""
        return np.stack([self.embedded[i // CHUNK][i % CHUNK] for i in indices])

    def images_of(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """[B, S, S, 3] of the given views."""
        return np.stack([self.images[i // CHUNK][i % CHUNK] for i in indices])

    def masks_of(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """[B, S, S] in {0, 1}."""
        bits = np.unpackbits(self.masks[indices], axis=1, count=self.side**2)
        return bits.reshape(-1, self.side, self.side).astype(np.float32)


def source_of_view(index: int, shares: Sequence[int]) -> tuple[int, int]:
    """Which source view `index` comes from, and the how manyeth of that source it is.

    Sources take turns in blocks as large as their shares: shares (2, 1) give the sources
    0, 0, 1, 0, 0, 1, ... Because views are counted by source, a source gives the same views
    whatever others stand beside it.
    """
    turn, place = divmod(index, sum(shares))
    for source, share in enumerate(shares):
        if place < share:
            return source, turn * share + place
        place -= share
    raise AssertionError("place is below the sum of the shares")


def build_store(
    folder: Path,
    draw: Draw,
    n_views: int,
    embed: Embed,
    *,
    identity: str,
    on_view: Callable[[int, int], None] | None = None,
) -> ViewStore:
    """Draw and embed `n_views` views, keeping chunks that an earlier run with `identity` left.

    Args:
        folder: Where chunks go.
        draw: View number -> view; must depend on the number alone.
        n_views: V.
        embed: Called with a chunk's images.
        identity: Describes everything that the views depend on.
        on_view: Called with views done, views in all.
    """
    stamp = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, n_views, CHUNK):
        end = min(start + CHUNK, n_views)
        tail = "" if end - start == CHUNK else f"-{end - start}"
        path = folder / f"views-{stamp}-{start // CHUNK:04d}{tail}"
        if not path.with_suffix(".npz").exists():
            _write_chunk(path, [draw(index) for index in range(start, end)], embed)
        paths.append(path)
        if on_view is not None:
            on_view(end, n_views)
    parts = []
    for path in paths:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as part:
            parts.append({name: part[name] for name in ("masks", "labels", "class_names", "side")})
    return ViewStore(
        embedded=[np.load(path.with_suffix(".npy"), mmap_mode="r") for path in paths],
        images=[np.load(path.with_suffix(".images.npy"), mmap_mode="r") for path in paths],
        masks=np.concatenate([part["masks"] for part in parts]),
        labels=np.concatenate([part["labels"] for part in parts]),
        class_names=[str(name) for part in parts for name in part["class_names"]],
        side=int(parts[0]["side"]),
    )


def _write_chunk(path: Path, views: list[View], embed: Embed) -> None:
    """Embeddings and images first; the labels vouch for them."""
    _write_array(path.with_suffix(".npy"), embed([view.image for view in views]))
    _write_array(path.with_suffix(".images.npy"), np.stack([view.image for view in views]))
    labels = path.with_suffix(".tmp.npz")
    np.savez(
        labels,
        masks=np.stack([np.packbits(view.mask) for view in views]),
        labels=np.array([view.is_anomalous for view in views]),
        class_names=np.array([view.class_name for view in views]),
        side=np.array(views[0].mask.shape[0]),
    )
    labels.replace(path.with_suffix(".npz"))


def _write_array(path: Path, array: NDArray[np.generic]) -> None:
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, array)
    temporary.replace(path)
