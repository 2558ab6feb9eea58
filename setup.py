"""Builds segcore's operators from csrc/ and packs configs/; all else is in pyproject.toml."""

import os
import shutil
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py


class BuildPackages(build_py):
    """Copies the configurations into the package, unless that stays in its clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            configs = Path(self.build_lib, "segcore", "configs")
            shutil.copytree("configs", configs, dirs_exist_ok=True)


def operators() -> dict:
    """Extension modules and build command for ``setup``; needs PyTorch.

    Two libraries against PyTorch's stable ABI, each one binary for Python >= 3.10 and PyTorch
    >= 2.10: schemas and CPU kernels, and, where there is a GPU with CUDA's compiler or with
    FORCE_CUDA=1, the CUDA kernels, for PyTorch built for the major version of CUDA in its name.
    """
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

    def extension(kind: type, name: str, sources: list[str], **flags: list[str]) -> Extension:
        target = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # 2.10
        return kind(
            name,
            sorted(sources),
            extra_compile_args={tool: [target, *more] for tool, more in flags.items()},
            py_limited_api=True,
        )

    # GCC's unroll-and-jam merges iterations of the loop over samples and then cannot vectorise over
    # channels: half the speed. Loops with a square root or a selection vectorise only where nobody
    # asks for errno or floating-point exceptions; results are the same.
    cpu_flags = ["-O3", "-fopenmp-simd", "-fno-loop-unroll-and-jam"]
    cpu_flags += ["-fno-math-errno", "-fno-trapping-math"]
    cpu_flags += ["-Wno-psabi"]  # functions that return vectors are inlined
    cpu_flags += os.environ.get("SEGCORE_CPU_FLAGS", "").split()  # of tools/sanitize.py
    extensions = [
        extension(
            CppExtension, "segcore._C", ["csrc/ops.cpp", *glob("csrc/cpu/*.cpp")], cxx=cpu_flags
        )
    ]
    with_gpu = torch.cuda.is_available() and CUDA_HOME is not None
    if with_gpu or os.environ.get("FORCE_CUDA") == "1":
        cuda_flags = ["-O3", "-DUSE_CUDA", "--expt-relaxed-constexpr"]
        name = f"segcore._C_cuda{torch.version.cuda.partition('.')[0]}"
        cuda = extension(CUDAExtension, name, glob("csrc/cuda/*.cu"), cxx=[], nvcc=cuda_flags)
        # CUDA's runtime becomes a part of the library, out of sight of PyTorch's: a GPU needs
        # nothing but its driver.
        cuda.libraries.remove("cudart")
        cuda.libraries += ["cudart_static", "rt", "dl", "pthread"]
        cuda.extra_link_args.append("-Wl,--exclude-libs,ALL")
        extensions.append(cuda)
    return {
        "ext_modules": extensions,
        "cmdclass": {"build_ext": BuildExtension, "build_py": BuildPackages},
        # One wheel for every Python from 3.10, as both libraries use the limited API only.
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


# tools/bootstrap.py installs first and compiles afterwards, so that a machine without a working
# compiler still gets the package.
if os.environ.get("SEGCORE_BUILD_OPERATORS") == "0":
    setup(cmdclass={"build_py": BuildPackages})
else:
    setup(**operators())
