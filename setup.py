"""Builds the extension: csrc/kernels (free of PyTorch) and csrc/torch (its bindings).

The CUDA part is built whenever nvcc is found and this PyTorch is a CUDA build, whether or not a
GPU is present; SNSOFTMAX_CUDA=0 or 1 forces it off or on, TORCH_CUDA_ARCH_LIST overrides the
architectures.

Autograd in C++ is no part of PyTorch's stable ABI, so a build serves one PyTorch release. It says
which: in its version (0.1.0+torch2.14, with CUDA 0.1.0+torch2.14.cu130), in what it requires, and
in snsoftmax/_built_for.json, which is read before the extension is loaded. A source distribution is
for no release yet and has the plain version, the only kind that a package index takes.

SNSOFTMAX_WERROR=1 makes warnings errors, as `make` does.
"""

from __future__ import annotations

import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from setuptools import setup
from setuptools.command.build_py import build_py
from torch.utils import cpp_extension

VERSION = "0.1.0"
TORCH = ".".join(torch.__version__.split(".")[:2])
IS_SOURCE = "sdist" in sys.argv
ROOT = Path(__file__).resolve().parent
KERNELS = Path("csrc/kernels")
ARCHITECTURES = os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0;9.0;10.0;12.0+PTX"
STRICT = os.environ.get("SNSOFTMAX_WERROR") == "1"
WARNINGS = ["-Wall", "-Wextra", *(["-Werror"] if STRICT else [])]
CAPABILITIES: dict[str, list[str]] = {"plain": ["-DSNSOFTMAX_DEFINE_DISPATCH"]}
if platform.machine() in ("x86_64", "AMD64"):
    CAPABILITIES["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    CAPABILITIES["avx512"] = [
        *CAPABILITIES["avx2"],
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
    ]
    CAPABILITIES["avx512_bf16"] = [*CAPABILITIES["avx512"], "-mavx512bf16"]


def kernel_sources() -> list[Path]:
    lines = (ROOT / "csrc/sources.txt").read_text().splitlines()
    return [KERNELS / line for line in lines if line and not line.startswith("#")]


def find_toolkit() -> tuple[str, Path] | None:
    """The release of nvcc and its toolkit's folder, or None where there is no nvcc.

    nvcc itself says where its toolkit is: what is on PATH may be a wrapper elsewhere.
    """
    home = os.environ.get("CUDA_HOME") or cpp_extension.CUDA_HOME
    nvcc = shutil.which(f"{home}/bin/nvcc") if home else None
    nvcc = nvcc or shutil.which("nvcc")
    if nvcc is None:
        return None

    def ask(*arguments: str) -> str:
        result = subprocess.run([nvcc, *arguments], capture_output=True, text=True, check=False)
        return result.stdout + result.stderr

    release = re.search(r"release (\d+\.\d+)", ask("--version"))
    top = re.search(r"^#\$ TOP=(.+)$", ask("--dryrun", "-x", "cu", os.devnull), re.M)
    if release is None or top is None:
        return None
    return release.group(1), Path(top.group(1)).resolve()


def cuda_release() -> str | None:
    """The CUDA release to build with, or None for a build without."""
    asked = os.environ.get("SNSOFTMAX_CUDA", "")
    if asked not in ("", "0", "1"):
        sys.exit(f"SNSOFTMAX_CUDA must be 0 or 1, got {asked!r}.")
    if asked == "0":
        return None
    toolkit, wanted = find_toolkit(), torch.version.cuda
    problem = None
    if wanted is None:
        problem = f"this PyTorch ({torch.__version__}) is built without CUDA"
    elif toolkit is None:
        problem = "no nvcc was found (put it on PATH or set CUDA_HOME)"
    elif toolkit[0].split(".")[0] != wanted.split(".")[0]:
        problem = f"nvcc is {toolkit[0]} but this PyTorch was built with CUDA {wanted}"
    if toolkit is not None and problem is None:
        os.environ["CUDA_HOME"] = cpp_extension.CUDA_HOME = str(toolkit[1])
        return toolkit[0]
    if asked == "1":
        sys.exit(f"SNSOFTMAX_CUDA=1 cannot be met: {problem}.")
    print(f"Building without CUDA: {problem}.")
    return None


class BuildPy(build_py):
    """Puts the studies into the package, where a wheel's users find them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "darts/study/studies"
            shutil.copytree(ROOT / "studies", target, dirs_exist_ok=True)


class BuildExt(cpp_extension.BuildExtension):
    """Compiles each *_cpu.cpp once per CPU capability before the rest is built and linked."""

    def run(self) -> None:
        about = {"torch": TORCH, "cuda": CUDA, "architectures": CUDA and ARCHITECTURES}
        about["sources"] = runpy.run_path("csrc/digest.py")["digest"]()
        built_for = json.dumps(about) + "\n"
        built = Path(self.build_lib) / "snsoftmax/_built_for.json"
        # An extension of another release may well be newer than every source.
        self.force = self.force or not built.exists() or built.read_text() != built_for
        super().run()
        for target in (built, ROOT / "snsoftmax" / built.name) if self.inplace else (built,):
            target.write_text(built_for)

    def build_extensions(self) -> None:
        compiler = os.environ.get("CXX", "c++")
        headers = max(
            h.stat().st_mtime for h in (ROOT / KERNELS).rglob("*.h") if "_cuda" not in h.name
        )
        jobs, objects = [], []
        for source in kernel_sources():
            if source.suffix != ".cpp":
                continue
            per_capability = source.stem.endswith("_cpu")
            for capability, flags in CAPABILITIES.items() if per_capability else [("", [])]:
                target = Path(self.build_temp) / f"{source.stem}.{capability or 'all'}.o"
                objects.append(str(target))
                if target.exists() and target.stat().st_mtime > max(
                    headers, source.stat().st_mtime, Path(__file__).stat().st_mtime
                ):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                command = [compiler, "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden"]
                command += [*WARNINGS, "-Wno-psabi", "-Wno-maybe-uninitialized", *flags]
                if capability:
                    command.append(f"-DSNSOFTMAX_CAPABILITY={capability}")
                jobs.append([*command, f"-I{KERNELS}", "-c", str(source), "-o", str(target)])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for command, result in zip(
                jobs, pool.map(lambda c: subprocess.run(c, check=False), jobs), strict=True
            ):
                if result.returncode:
                    sys.exit(f"Compilation failed: {' '.join(command)}")
        for extension in self.extensions:
            extension.extra_objects = objects
        super().build_extensions()


def extension() -> object:
    macros = [("SNSOFTMAX_VERSION", f'"{VERSION}"')]
    sources = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "csrc/torch").rglob("*.cpp"))]
    include = [str(ROOT / KERNELS)]
    # at::parallel_for is OpenMP in a header: without the flag it runs on one thread.
    flags = {"cxx": ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-fopenmp"]}
    if CUDA is None:
        return cpp_extension.CppExtension(
            "snsoftmax._C",
            sources,
            include_dirs=include,
            define_macros=macros,
            extra_compile_args=flags,
        )
    os.environ["TORCH_CUDA_ARCH_LIST"] = ARCHITECTURES
    macros += [
        ("SNSOFTMAX_WITH_CUDA", None),
        ("SNSOFTMAX_CUDA_VERSION", f'"{CUDA}"'),
        ("SNSOFTMAX_CUDA_ARCHITECTURES", f'"{ARCHITECTURES}"'),
    ]
    flags["nvcc"] = ["-O3", "--threads", str(os.cpu_count())]
    flags["nvcc"] += ["-Werror", "all-warnings"] if STRICT else []
    sources += [str(s) for s in kernel_sources() if s.suffix == ".cu"]
    return cpp_extension.CUDAExtension(
        "snsoftmax._C",
        sources,
        include_dirs=include,
        define_macros=macros,
        extra_compile_args=flags,
    )


os.chdir(ROOT)
CUDA = cuda_release()
LOCAL = f"+torch{TORCH}" + (f".cu{CUDA.replace('.', '')}" if CUDA else "")
setup(
    version=VERSION if IS_SOURCE else VERSION + LOCAL,
    install_requires=["torch>=2.10" if IS_SOURCE else f"torch=={TORCH}.*"],
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
)
