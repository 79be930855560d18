"""What is compiled and how: shared by setup.py and by compiling on first use. Imports nothing of this package."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import torch

# Counts changes of the operators' schemas, so that an old library is not called with new arguments.
INTERFACE_VERSION = 4

SOURCE_FOLDER = Path(__file__).resolve().parent / "csrc"
# The language standard is left to PyTorch's builder: headers and library must agree on it.
CXX_FLAGS = ["-O3"]
ARCHITECTURES = ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0")


def nvcc_release() -> tuple[int, int] | None:
    """Version of the CUDA compiler that PyTorch's extension builder would call, None where there is none."""
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is None:
        return None
    try:
        text = subprocess.run(
            [str(Path(CUDA_HOME) / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=True
        ).stdout
        major, minor = text.split("release ")[1].split(",")[0].split(".")
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        return None
    return int(major), int(minor)


def with_cuda() -> tuple[bool, str]:
    """Whether to compile the CUDA kernels, and why: FORCE_CUDA=1 or 0 decides, else a fitting nvcc does."""
    forced = os.environ.get("FORCE_CUDA", "")
    if forced in ("0", "1"):
        return forced == "1", f"FORCE_CUDA={forced}"
    if torch.version.cuda is None:
        return False, "this PyTorch has no CUDA"
    release = nvcc_release()
    if release is None:
        return False, "no nvcc found (set CUDA_HOME)"
    if release[0] != int(torch.version.cuda.split(".")[0]):
        return False, f"nvcc is {release[0]}.{release[1]}, PyTorch was built with CUDA {torch.version.cuda}"
    return True, f"nvcc {release[0]}.{release[1]}"


def default_architectures() -> str:
    """Every architecture from sm_70 to sm_100 that the installed nvcc knows, the last one also as PTX."""
    from torch.utils.cpp_extension import CUDA_HOME

    assert CUDA_HOME is not None, "with_cuda found its nvcc"
    listing = subprocess.run(
        [str(Path(CUDA_HOME) / "bin" / "nvcc"), "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout.split()
    known = [name for name in ARCHITECTURES if f"sm_{name.replace('.', '')}" in listing]
    return ";".join(known) + "+PTX"


def prepare_environment(cuda: bool) -> None:
    """Where no GPU is visible and TORCH_CUDA_ARCH_LIST is not set, builds for every supported architecture."""
    if cuda and not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures()


def sources(cuda: bool) -> list[Path]:
    """Source files of the shared library."""
    files = sorted(SOURCE_FOLDER.glob("cpu/*.cpp"))
    return files + sorted(SOURCE_FOLDER.glob("cuda/*.cu")) if cuda else files


def nvcc_flags() -> list[str]:
    """Flags of the CUDA compiler.

    A toolkit may come without the header of cuBLASLt, which is then looked for beside the library of PyTorch's wheel.
    """
    libraries = Path(torch.__file__).resolve().parents[1] / "nvidia"
    toolkit = f"cu{(torch.version.cuda or '').split('.')[0]}"  # in wheels of CUDA 13 and later
    folders = [libraries / name / "include" for name in (toolkit, "cublas")]
    return ["-O3", *(f"-Xcompiler=-idirafter{folder}" for folder in folders if (folder / "cublasLt.h").is_file())]


def compile_in_cache() -> str:
    """Compiles into PyTorch's extension cache unless that is done already, loads the result, says where it is.

    Raises:
        RuntimeError, OSError or ImportError: no compiler, or it fails.
    """
    from torch.utils import cpp_extension

    cuda, _ = with_cuda()
    prepare_environment(cuda)
    digest = hashlib.sha256()
    for path in sorted(SOURCE_FOLDER.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    digest.update(f"{torch.__version__} {cuda} {os.environ.get('TORCH_CUDA_ARCH_LIST')}".encode())
    name = f"mask2former_ops_{digest.hexdigest()[:12]}"
    cpp_extension.load(
        name,
        [str(path) for path in sources(cuda)],
        extra_cflags=CXX_FLAGS,
        extra_cuda_cflags=nvcc_flags(),
        with_cuda=cuda,
        is_python_module=False,
    )
    return name
