"""A bundle comes back as the model it was; whatever was changed on the way is refused."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from daemon.errors import ModelError
from daemon.training.bundle import MANIFEST_NAME, read_bundle, write_bundle
from daemon.training.model_store import ModelStore

Entries = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def store(made: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Holds one model."""
    store = ModelStore(tmp_path_factory.mktemp("store") / "models", made / "base")
    store.add(made / "a")
    return store


@pytest.fixture(scope="module")
def bundle(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stick") / "model.tar"
    write_bundle(store, store.models()[0].version, path)
    return path


def entries(bundle: Path) -> Entries:
    with tarfile.open(bundle, "r:") as tar:
        return [(entry, tar.extractfile(entry).read()) for entry in tar]


def written(path: Path, found: Entries) -> Path:
    with tarfile.open(path, "w") as tar:
        for entry, content in found:
            if entry.isreg():
                entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def refused(path: Path, folder: Path, words: str) -> None:
    (folder / "out").mkdir()
    before = sorted(file for file in folder.rglob("*") if "out" not in file.parts)
    with pytest.raises(ModelError, match=words):
        read_bundle(path, folder / "out")
    assert sorted(file for file in folder.rglob("*") if "out" not in file.parts) == before
    allowed = {"weights.safetensors", "card.json", "golden", "golden.json", "000.png", "001.png"}
    assert {file.name for file in (folder / "out").rglob("*")} <= allowed


def _import(store: ModelStore, path: Path, folder: Path) -> None:
    version = read_bundle(path, folder)
    if store.add(folder) != version:
        raise ModelError("another model than the manifest names")


def test_a_bundle_comes_back_as_the_same_model(
    store: ModelStore, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    version = read_bundle(bundle, tmp_path / "out")
    elsewhere = ModelStore(tmp_path / "elsewhere", store.base)

    assert elsewhere.add(tmp_path / "out") == version == store.models()[0].version
    again = tmp_path / "again.tar"
    write_bundle(elsewhere, version, again)
    assert again.read_bytes() == bundle.read_bytes()


def test_the_configured_model_and_a_taken_name_are_refused(
    store: ModelStore, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="configured one"):
        write_bundle(store, store.base_version(), tmp_path / "base.tar")
    with pytest.raises(ModelError, match="there already"):
        write_bundle(store, store.models()[0].version, bundle)


@pytest.mark.parametrize("cut", [0, 100, 600, 5_000])
def test_a_bundle_that_ends_early_is_refused(bundle: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.tar"
    path.write_bytes(bundle.read_bytes()[:cut])

    refused(path, tmp_path, "bundle|ends before|bytes")


def test_one_changed_byte_anywhere_is_refused(
    store: ModelStore, bundle: Path, tmp_path: Path
) -> None:
    """Of each file's content; padding and unused fields of the headers say nothing."""
    for number, (info, content) in enumerate(entries(bundle)):
        folder = tmp_path / str(number)
        folder.mkdir()
        changed = entries(bundle)
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        changed[number] = (info, flipped)
        path = written(folder / "changed.tar", changed)
        out = folder / "out"
        out.mkdir()

        with pytest.raises(ModelError):
            _import(ModelStore(folder / "models", store.base), path, out)


@pytest.mark.parametrize("name", ["../escaped", "/etc/passwd", "golden/../../x", "card.json/../y"])
def test_a_name_that_leaves_the_folder_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    found = entries(bundle)
    manifest = json.loads(found[0][1])
    manifest["files"][0]["name"] = name
    found[0] = (found[0][0], json.dumps(manifest).encode())
    found[1] = (entry(name), found[1][1])

    refused(written(tmp_path / "x.tar", found), tmp_path, "pattern")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_a_link_or_device_in_the_place_of_a_file_is_refused(
    bundle: Path, tmp_path: Path, kind: bytes
) -> None:
    found = entries(bundle)
    found[2] = (entry(found[2][0].name, kind, "/etc/passwd"), b"")

    refused(written(tmp_path / "x.tar", found), tmp_path, "plain file")


def test_a_file_too_many_twice_or_of_another_size_is_refused(bundle: Path, tmp_path: Path) -> None:
    def changed(number: int, change: object) -> Path:
        folder = tmp_path / str(number)
        folder.mkdir()
        found = entries(bundle)
        change(found)
        return written(folder / "x.tar", found)

    extra = changed(0, lambda found: found.append((entry("evil.sh"), b"rm")))
    refused(extra, extra.parent, "does not name")
    longer = changed(1, lambda found: found.__setitem__(2, (found[2][0], found[2][1] + b"x")))
    refused(longer, longer.parent, "promised")
    swapped = changed(2, lambda found: found.__setitem__(slice(1, 3), [found[2], found[1]]))
    refused(swapped, swapped.parent, "stands where")


def test_a_manifest_that_promises_too_much_is_refused_before_anything_is_read(
    bundle: Path, tmp_path: Path
) -> None:
    for number, (key, value, words) in enumerate(
        [
            ("size", 10 << 30, "less than or equal"),
            ("size", 100 << 20, "limit"),
            ("sha256", "0", "pattern"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = entries(bundle)
        manifest = json.loads(found[0][1])
        manifest["files"][0][key] = value
        found[0] = (found[0][0], json.dumps(manifest).encode())
        refused(written(folder / "x.tar", found), folder, words)


def test_a_compressed_archive_is_refused_unread(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        tar.addfile(entry(MANIFEST_NAME), io.BytesIO(b""))

    refused(tmp_path / "x.tar", tmp_path, "not a model bundle")


def test_the_manifest_names_every_file_with_its_hash(bundle: Path) -> None:
    (_, manifest), *files = entries(bundle)

    promised = {file["name"]: file["sha256"] for file in json.loads(manifest)["files"]}
    assert promised == {info.name: hashlib.sha256(content).hexdigest() for info, content in files}
