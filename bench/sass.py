"""Read what nvcc made of the CUDA kernels: registers, spills and the width of memory accesses.

    python -m bench.sass [--arch 80 90 100 120] [--json PATH]

Compiles the kernels of csrc/sources.txt (warnings as errors), disassembles them with cuobjdump and
prints one line a kernel. What must hold everywhere: no stack, no local memory, no atomics; and in
the kernels of `RULES`: no double arithmetic for narrower types but in sums over blocks, registers
within the kernel's budget, and 16-byte global loads and stores wherever elements lie next to each
other. The node's convolutions and their gradients multiply on tensor cores; their operands come to
shared memory by asynchronous copies of 16 bytes and from it 512 bytes at once. Exits with 1 where
something does not hold.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "csrc/kernels"
ARCHITECTURES = ("80", "90", "100", "120")


@dataclass(frozen=True)
class Rule:
    """What one kernel template must keep to.

    `registers`: most registers a thread, for float and half types and for double.
    `loads`, `stores`: fewest 16-byte global accesses in its code; loads count for one input.
    `since`: the first architecture that it is for; for an older one there is no code to look at.
    `packs`: whose accesses are 16 bytes wide, by their arguments; the others take maps that do not
    lie on 16 bytes.
    `doubles`: sums over blocks of narrower types are double.
    `tensor`: it multiplies on tensor cores, and this is the most loads of 512 bytes from shared
    memory that a product takes; `loads` are then asynchronous copies.
    `across`: floats' operands lie across the rows, which no load of matrices transposes.
    """

    registers: tuple[int, int]
    loads: int
    stores: int
    since: int = 80
    packs: str = ""
    doubles: bool = False
    tensor: float = 0.0
    across: bool = False


WHOLE_PACKS = r"<(float, 4|double, 2|__half, 8|__nv_bfloat16, 8)\b"
# 2048 threads fit a multiprocessor at 32 registers, 1024 at 64, 768 at 80, 512 at 128.
RULES = {
    "tile_kernel": Rule((56, 80), 1, 1),
    "warp_kernel": Rule((96, 128), 1, 1),
    "block_kernel": Rule((96, 128), 2, 2),
    "stream_kernel": Rule((64, 128), 4, 2),
    "cluster_kernel": Rule((64, 128), 4, 2, since=90),
    "split_in_kernel": Rule((64, 128), 2, 0),
    "split_out_kernel": Rule((64, 128), 2, 2),
    "strided_kernel": Rule((128, 168), 0, 0),
    # A row of a kernel's taps is loaded at once.
    "gather_results": Rule((128, 128), 3, 1, packs=WHOLE_PACKS),
    "gather_gradients": Rule((128, 128), 3, 1, packs=WHOLE_PACKS),
    "correlate": Rule((128, 128), 4, 0, packs=WHOLE_PACKS, doubles=True),
    "tensor_kernel": Rule((128, 128), 2, 2, tensor=6 / 16),
    # Three rows of taps for each load of gradients; 384 threads fit a multiprocessor.
    "weights_kernel": Rule((168, 168), 2, 12, tensor=5 / 12, across=True),
    # 16 channels are two products for one load of kernels and two halves of a load of gradients.
    "map_kernel": Rule((128, 128), 2, 2, tensor=3 / 4, across=True),
    "sum_kernel": Rule((64, 64), 1, 1, packs="<float"),
}


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel."""

    source: str
    arch: str
    name: str
    registers: int
    stack: int
    local: int
    shared: int
    opcodes: Counter[str]

    @property
    def template(self) -> str:
        """The name without its arguments."""
        return self.name.split("<", 1)[0]

    def count(self, pattern: str) -> int:
        """How many instructions match."""
        return sum(n for opcode, n in self.opcodes.items() if re.match(pattern, opcode))

    def problems(self) -> Iterator[str]:
        """Sentences; none where the kernel is as it should be."""
        if self.stack or self.local or self.count(r"(LDL|STL)\b"):
            yield f"uses {self.stack} bytes of stack and {self.local} of local memory"
        if atomics := self.count(r"(ATOM|ATOMG|RED|REDG)\b"):
            yield f"has {atomics} atomics"
        rule = RULES.get(self.template)
        if rule is None or int(self.arch) < rule.since:
            return
        double = "double" in self.name
        if not (double or rule.doubles) and (wide := self.count(r"D(ADD|MUL|FMA)\b")):
            yield f"computes in double {wide} times"
        if self.registers > rule.registers[double]:
            yield f"has {self.registers} registers, over its {rule.registers[double]}"
        if not re.search(rule.packs, self.name):
            return
        inputs = 2 if "Backward" in self.name else 1
        wide_load = r"LDGSTS\.E\S*\.128" if rule.tensor else r"LDG\.E\.128"
        if (loads := self.count(wide_load)) < rule.loads * inputs:
            yield f"has {loads} 16-byte loads, fewer than {rule.loads * inputs}"
        if (stores := self.count(r"STG\.E\.128")) < rule.stores:
            yield f"has {stores} 16-byte stores, fewer than {rule.stores}"
        if rule.tensor:
            yield from self._products(rule)

    def _products(self, rule: Rule) -> Iterator[str]:
        """What is wrong with a kernel of tensor cores."""
        products = self.count(r"HMMA\.1688\.F32\.TF32" if "<float" in self.name else r"HMMA\.16816")
        matrices = self.count(r"LDSM\.16\.MT?88\.4")
        loads = float(matrices)
        if rule.across:
            loads += self.count(r"LDS\.128") + self.count(r"LDS\.64") / 2
        if products == 0:
            yield "has no products on tensor cores"
        if self.count(r"LDSM") != matrices or loads > rule.tensor * products:
            yield f"loads 512 bytes {loads:g} times for {products} products"
        if self.count(r"LDGSTS") != self.count(r"LDGSTS\.E\S*\.128"):
            yield "has copies narrower than 16 bytes"


def find_tool(name: str) -> str | None:
    """Path of a CUDA tool: on PATH, in CUDA_HOME, or in Triton's wheel."""
    places = [os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        places.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


def missing_tools() -> str | None:
    """Say in a sentence what is needed and not here, or None."""
    missing = [tool for tool in ("nvcc", "cuobjdump") if find_tool(tool) is None]
    return f"The CUDA tools {' and '.join(missing)} are not on this machine." if missing else None


def cuda_sources() -> list[Path]:
    """The .cu files of csrc/sources.txt."""
    lines = (ROOT / "csrc/sources.txt").read_text().splitlines()
    return [KERNELS / line for line in lines if line.endswith(".cu")]


def compile_kernels(source: Path, arch: str, folder: Path) -> Path:
    """Compile one source for one architecture; keep an object that is newer than every source."""
    target = folder / f"{source.stem}_{arch}.o"
    newest = max(path.stat().st_mtime for path in KERNELS.rglob("*.*"))
    if target.exists() and target.stat().st_mtime > newest:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(find_tool("nvcc")), "-std=c++17", "-O3", "-Werror", "all-warnings"]
    command += [f"-I{KERNELS}"]
    command += ["-Xptxas", "-warn-spills", "-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    unfinished = target.with_suffix(".tmp.o")
    subprocess.run([*command, "-c", str(source), "-o", str(unfinished)], check=True)
    os.replace(unfinished, target)
    return target


def demangle(names: Sequence[str]) -> list[str]:
    """Short C++ names, without namespaces and parameters."""
    filt = shutil.which("c++filt")
    if filt is None:
        return list(names)
    lines = subprocess.run(
        [filt], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    shortened = (re.sub(r"snsoftmax::|\(anonymous namespace\)::|^void ", "", x) for x in lines)
    return [re.sub(r" ?>+\(.*$", lambda m: m[0].split("(")[0], name) for name in shortened]


def disassemble(target: Path, source: Path, arch: str) -> list[Kernel]:
    """Every kernel of an object."""

    def dump(*options: str) -> str:
        command = [str(find_tool("cuobjdump")), *options, str(target)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    usage = re.findall(
        r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", dump("-res-usage")
    )
    opcodes: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in dump("-sass").splitlines():
        if match := re.search(r"Function : (\S+)", line):
            current = opcodes.setdefault(match[1], Counter())
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line):
            current[match[1]] += 1
    kernels = []
    for short, (name, registers, stack, shared, local) in zip(
        demangle([entry[0] for entry in usage]), usage, strict=True
    ):
        numbers = (int(registers), int(stack), int(local), int(shared))
        kernels.append(Kernel(source.stem, arch, short, *numbers, opcodes[name]))
    return sorted(kernels, key=lambda kernel: kernel.name)


def inspect(architectures: Sequence[str] = ARCHITECTURES) -> list[Kernel]:
    """Compile and disassemble all kernels."""
    return [
        kernel
        for source in cuda_sources()
        for arch in architectures
        for kernel in disassemble(compile_kernels(source, arch, ROOT / "build/sass"), source, arch)
    ]


def show(kernels: Sequence[Kernel]) -> None:
    """Print the table: a line a kernel, its worst case over the architectures."""
    by_name: dict[tuple[str, str], list[Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault((kernel.source, kernel.name), []).append(kernel)
    table = Table("source", "kernel", title="Kernels as compiled")
    for column in ("registers", "shared", "spilled", "16-byte loads", "stores", "instructions"):
        table.add_column(column, justify="right")
    for (source, name), group in by_name.items():
        table.add_row(
            source,
            name,
            "/".join(str(k.registers) for k in group),
            str(max(k.shared for k in group)),
            str(max(k.stack + k.local for k in group)),
            str(min(k.count(r"LDG\.E\.128") for k in group)),
            str(min(k.count(r"STG\.E\.128") for k in group)),
            str(max(sum(k.opcodes.values()) for k in group)),
        )
    Console(width=140).print(table)


def main() -> int:
    """Compile, check, print; 1 where a kernel is not as it should be."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sass",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), help="for example 90")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    options = parser.parse_args()
    if (missing := missing_tools()) is not None:
        raise SystemExit(missing)
    kernels = inspect(options.arch)
    show(kernels)
    if options.json is not None:
        rows = [
            {**vars(k), "opcodes": dict(k.opcodes), "problems": list(k.problems())} for k in kernels
        ]
        unfinished = options.json.with_suffix(".tmp")
        unfinished.write_text(json.dumps(rows, indent=1))
        os.replace(unfinished, options.json)
    found = [f"sm_{k.arch} {k.name} {problem}." for k in kernels for problem in k.problems()]
    print("\n".join(found) if found else f"{len(kernels)} kernels are as they should be.")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
