"""One model in one file, for a USB stick: a plain tar whose manifest names every file and hash.

The same model always gives the same bytes. Refuses what nobody here would have written: names,
sizes, links, an order or a hash that differ, one file too many; nothing is unpacked before that.
"""

import contextlib
import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import Field, ValidationError

from daemon.errors import ModelError
from daemon.training.golden import BOOK_NAME, MAX_GOLDEN, read_golden
from daemon.training.model_store import GOLDEN_NAME, ModelStore
from zsad.checkpoint import CARD_NAME, WEIGHTS_NAME
from zsad.config.section import Section

MANIFEST_NAME = "manifest.json"
MAX_BUNDLE_BYTES = 2 << 30
_MAX_MANIFEST_BYTES = 1 << 18
_MAX_SMALL_BYTES = 8 << 20
"""Of every file but the weights."""
_CHUNK = 1 << 20


class BundledFile(Section):
    """One file of a bundle."""

    name: Annotated[
        str,
        Field(pattern=r"^(weights\.safetensors|card\.json|golden/(golden\.json|[0-9]{3}\.png))$"),
    ]
    size: Annotated[int, Field(ge=0, le=MAX_BUNDLE_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Section):
    """The first file of a bundle; the others follow in its order."""

    format: Literal["zsad model bundle 1"] = "zsad model bundle 1"
    version: str
    files: Annotated[tuple[BundledFile, ...], Field(min_length=4, max_length=MAX_GOLDEN + 3)]


def write_bundle(store: ModelStore, version: str, target: Path) -> int:
    """Write a verified model as one file, complete or not at all.

    Args:
        target: Must not exist.

    Returns:
        Its size in bytes.

    Raises:
        ModelError: the model is not in the store or damaged, or the file cannot be written.
    """
    store.verify(version)
    golden = store.golden_of(version)
    if golden is None:
        raise ModelError(
            f"model {version} is the configured one and has no golden images: copy its folder "
            f"{store.base}"
        )
    path = golden.parent
    names = [CARD_NAME, WEIGHTS_NAME, f"{GOLDEN_NAME}/{BOOK_NAME}"]
    names += [f"{GOLDEN_NAME}/{image.file}" for image in read_golden(golden, version).images]
    half = target.with_name(f"{target.name}.half")
    try:
        if target.exists():
            raise ModelError(f"{target} is there already: choose another name")
        files = tuple(_described(path, name) for name in names)
        manifest = Manifest(version=version, files=files).model_dump_json(indent=2).encode() + b"\n"
        with half.open("wb") as out, tarfile.open(fileobj=out, mode="w", format=_FORMAT) as tar:
            tar.addfile(_entry(MANIFEST_NAME, len(manifest)), io.BytesIO(manifest))
            for file in files:
                with (path / file.name).open("rb") as content:
                    tar.addfile(_entry(file.name, file.size), content)
            tar.close()
            out.flush()
            os.fsync(out.fileno())
        half.rename(target)
        return target.stat().st_size
    except OSError as error:
        with contextlib.suppress(OSError):  # a full stick is not left with half a model
            half.unlink(missing_ok=True)
        raise ModelError(f"{target}: cannot be written: {error.strerror}") from error


def read_bundle(source: Path, folder: Path) -> str:
    """Unpack a bundle whose every file is as its manifest says.

    Args:
        folder: Must exist and be empty; what is in it after an error is worth nothing.

    Returns:
        The version that the manifest names. `ModelStore.add` checks that the files are it.

    Raises:
        ModelError: it is no bundle, is damaged or was changed, or the disk takes no more.
    """
    try:
        if (size := source.stat().st_size) > MAX_BUNDLE_BYTES:
            raise ModelError(f"{source}: {size} bytes, limit {MAX_BUNDLE_BYTES}")
        with tarfile.open(source, "r:") as tar:
            manifest = _manifest(tar, source)
            (folder / GOLDEN_NAME).mkdir()
            for file in manifest.files:
                _unpack(tar, file, folder, source)
            if (extra := tar.next()) is not None:
                raise ModelError(
                    f"{source}: holds {extra.name!r}, which its manifest does not name"
                )
    except (tarfile.TarError, EOFError) as error:
        raise ModelError(f"{source}: not a model bundle: {error}") from error
    except OSError as error:
        raise ModelError(f"{source}: cannot be read: {error.strerror or error}") from error
    return manifest.version


_FORMAT = tarfile.USTAR_FORMAT


def _entry(name: str, size: int) -> tarfile.TarInfo:
    """Without clock, user or machine: the same model, the same bytes."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


def _described(path: Path, name: str) -> BundledFile:
    digest, size = hashlib.sha256(), 0
    with (path / name).open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return BundledFile(name=name, size=size, sha256=digest.hexdigest())


def _manifest(tar: tarfile.TarFile, source: Path) -> Manifest:
    content = _plain(tar, MANIFEST_NAME, _MAX_MANIFEST_BYTES, source).read(_MAX_MANIFEST_BYTES)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(f"{source}: {MANIFEST_NAME}: {where}: {first['msg']}") from error
    names = [file.name for file in manifest.files]
    wanted = {CARD_NAME, WEIGHTS_NAME, f"{GOLDEN_NAME}/{BOOK_NAME}"}
    if len(set(names)) != len(names) or not wanted <= set(names):
        raise ModelError(f"{source}: {MANIFEST_NAME}: names {names}, each needed file once")
    for file in manifest.files:
        if file.name != WEIGHTS_NAME and file.size > _MAX_SMALL_BYTES:
            raise ModelError(f"{source}: {file.name}: {file.size} bytes, limit {_MAX_SMALL_BYTES}")
    return manifest


def _unpack(tar: tarfile.TarFile, file: BundledFile, folder: Path, source: Path) -> None:
    content, digest = _plain(tar, file.name, file.size, source, exact=True), hashlib.sha256()
    with (folder / file.name).open("wb") as out:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != file.sha256:
        raise ModelError(
            f"{source}: {file.name}: SHA-256 is {digest.hexdigest()[:12]}, the manifest says "
            f"{file.sha256[:12]}; the bundle is damaged: copy it again"
        )


def _plain(
    tar: tarfile.TarFile, name: str, limit: int, source: Path, *, exact: bool = False
) -> IO[bytes]:
    """The next entry, which must be this file: no link, no device, no sparse file."""
    entry = tar.next()
    if entry is None:
        raise ModelError(f"{source}: ends before {name}; the bundle is damaged: copy it again")
    if entry.name != name or entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ModelError(f"{source}: {entry.name!r} stands where the plain file {name} should")
    if entry.issparse() or entry.size > limit or (exact and entry.size != limit):
        raise ModelError(f"{source}: {name} has {entry.size} bytes, {limit} were promised")
    content = tar.extractfile(entry)
    assert content is not None, "it is a plain file"  # noqa: S101
    return content
