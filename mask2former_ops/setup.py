"""Builds the compiled operators: `pip install --no-build-isolation ./mask2former_ops`.

Installs one shared library and its description as the package `_mask2former_ops`, which the Python package
`mask2former_ops` (part of usg_psg) finds and checks. TORCH_CUDA_ARCH_LIST, FORCE_CUDA, CUDA_HOME and MAX_JOBS are
honoured; without nvcc the CPU part is built alone.
"""

import json
import os
import runpy
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
except ImportError as error:
    raise SystemExit(
        "mask2former_ops is compiled against the PyTorch of your environment, and pip hides that from builds: "
        f"use `pip install --no-build-isolation ./mask2former_ops` ({error})"
    ) from error

HERE = Path(__file__).resolve().parent
os.chdir(HERE)
options = runpy.run_path(str(HERE / "compilation.py"))
cuda, reason = options["with_cuda"]()
options["prepare_environment"](cuda)
print(f"mask2former_ops: {'CPU and CUDA' if cuda else 'CPU only'} ({reason})")

extension = (CUDAExtension if cuda else CppExtension)(
    "_mask2former_ops._C",
    [str(path.relative_to(HERE)) for path in options["sources"](cuda)],
    extra_compile_args={"cxx": options["CXX_FLAGS"], "nvcc": options["nvcc_flags"]()},
)


class DescribedBuild(BuildExtension):
    """Writes the description beside the library after it is complete, so that a half-built one has none."""

    def run(self):
        folder = Path(self.build_lib, "_mask2former_ops")
        description = folder / "build_info.json"
        description.unlink(missing_ok=True)
        super().run()
        library = Path(self.get_ext_fullpath("_mask2former_ops._C"))
        info = {
            "library": library.name,
            "size": library.stat().st_size,
            "torch": torch.__version__,
            "cuda": torch.version.cuda if cuda else None,
            "architectures": os.environ.get("TORCH_CUDA_ARCH_LIST", "") if cuda else "",
            "interface": options["INTERFACE_VERSION"],
        }
        (folder / "__init__.py").write_text('"""Compiled operators, loaded by mask2former_ops."""\n')
        description.write_text(json.dumps(info, indent=2) + "\n")


setup(
    name="mask2former_ops_compiled",
    version="0.1.0",
    description="Compiled operators for usg_psg",
    license="Apache-2.0",
    packages=[],
    py_modules=[],
    ext_modules=[extension],
    cmdclass={"build_ext": DescribedBuild},
)
