"""Is what is installed complete and whole: Python, packages, torch, weights?"""

import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from daemon.doctor.finding import Finding, fail, ok, warn
from daemon.ownership import ForeignPackageError, refuse_foreign_daemon_package

MIN_PYTHON = (3, 11)
OPENCV_BUILDS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
CPU_FLAGS = ("avx2", "avx512f", "amx_bf16")
_CHUNK_BYTES = 1 << 20


def check_software(checkpoints: Sequence[Path | None]) -> Iterator[Finding]:
    """Everything that needs no configuration but the folders of its models; None: the embedded."""
    yield _python()
    yield _own_package()
    yield _opencv()
    yield _cpu()
    yield from _torch()
    for folder in checkpoints:
        yield from check_weights(_embedded() if folder is None else [folder])


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info < MIN_PYTHON:
        return fail("python", found, "install Python 3.11 or later and make the .venv again")
    return ok("python", f"{found} in {sys.prefix}")


def _own_package() -> Finding:
    try:
        refuse_foreign_daemon_package()
    except ForeignPackageError as error:
        return fail("package", str(error), "do as it says; zsad needs an environment of its own")
    return ok("package", f"zsad {version('zsad')}")


def _opencv() -> Finding:
    found = [name for name in OPENCV_BUILDS if _is_installed(name)]
    match found:
        case [only]:
            return ok("opencv", f"{only} {version(only)}")
        case []:
            return fail("opencv", "not installed", "pip install opencv-python")
        case _:
            advice = f"pip uninstall {' '.join(found)}, then pip install opencv-python"
            return fail("opencv", f"{', '.join(found)} overwrite each other's cv2", advice)


def _cpu() -> Finding:
    """The instruction sets that oneDNN and FBGEMM choose their kernels by."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return warn("cpu", "/proc/cpuinfo cannot be read", "check ProcSubset= of the unit")
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    found = [flag for flag in CPU_FLAGS if flag in flags]
    if platform.machine() == "x86_64" and "avx2" not in found:
        return warn("cpu", "no AVX2", "inspection will be several times slower; use another CPU")
    return ok("cpu", f"{platform.machine()} {' '.join(found)}".strip())


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # a missing or foreign shared library
        yield fail("torch", str(error)[:200], "pip install --force-reinstall torch")
        return
    yield ok("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        yield ok("gpu", ", ".join(_gpu_names()))
    elif Path("/dev/nvidiactl").exists():
        advice = "run nvidia-smi; inside the service see the GPU lines of systemd/README.md"
        yield warn("gpu", "a driver is there, but torch sees no GPU", advice)
    else:
        yield ok("gpu", "none; the detector runs on the CPU")


def _gpu_names() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def check_weights(folders: Sequence[Path]) -> Iterator[Finding]:
    """Whether weights are the bytes that their cards name."""
    for folder in folders:
        name = f"weights {folder.name}"
        try:
            card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
            found = _sha256(folder / "weights.safetensors")
        except (OSError, ValueError) as error:
            advice = "name the folder that `zsad train` wrote, or install zsad again"
            yield fail(name, f"{folder}: {error}", advice)
            continue
        wanted = card.get("weights_sha256") if isinstance(card, dict) else None
        if found == wanted:
            yield ok(name, f"sha256 {found[:12]}, as its card says")
        else:
            text = f"sha256 {found[:12]}, its card says {str(wanted)[:12]}"
            yield fail(name, text, "copy the folder again: the file is damaged or was changed")


def _embedded() -> list[Path]:
    weights = Path(str(files("zsad"))) / "weights"
    return sorted(card.parent for card in weights.glob("*/card.json"))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
