"""Proves that the rig can fail: breaks the CUDA sources in one place and wants it noticed.

Each mutant is compiled as the tests are, under the sanitizer that should see it, and run on a few
cases of every regime. A mutant that survives, or is noticed for another reason, is an error, and
so is an unbroken source that does not pass. Run by ctest in the thread sanitizer's build:

    python tests/csrc/mutants.py [--compiler g++] [name ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "csrc/kernels"
SIMT = ROOT / "csrc/simt"
TESTS = ROOT / "tests/csrc"
CUDA, MATH, PLAN = "sn_softmax_cuda.cu", "sn_softmax_math.h", "sn_softmax_plan.h"

SANITIZERS = {
    "race": ["-fsanitize=thread"],
    "bounds": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "value": [],
}
# What the output must say; a mutant may well be wrong in other ways at the same time.
EVIDENCE = {
    "race": ["ThreadSanitizer: data race"],
    "bounds": ["ERROR: AddressSanitizer", "runtime error: "],
    "value": ["sn_softmax_cases.h:"],
}


@dataclass(frozen=True)
class Mutant:
    """`old`, which occurs once in `file`, replaced by `new`; seen by `kind`."""

    name: str
    kind: str
    old: str
    new: str
    file: str = CUDA


SYNC = "__syncthreads();"
MUTANTS = [
    Mutant("no barrier in a block's max", "race", f"buffer.max[warp()] = x;\n    {SYNC}",
           "buffer.max[warp()] = x;"),
    Mutant("no barrier in a block's sum", "race", f"buffer.sums[i][warp()] = x[i];\n    {SYNC}",
           "buffer.sums[i][warp()] = x[i];"),
    Mutant("no barrier in a column's max", "race", f"cell(0, index()) = x;\n    {SYNC}",
           "cell(0, index()) = x;"),
    Mutant("no barrier in a column's sum", "race", f"cell(1 + i, index()) = x[i];\n    {SYNC}",
           "cell(1 + i, index()) = x[i];"),
    Mutant("no barrier before a tile's rows", "race", f"task.aligned);\n  {SYNC}",
           "task.aligned);"),
    Mutant("no barrier after a tile's rows", "race", f"  }}\n  {SYNC}", "  }\n"),
    Mutant("one element too many", "bounds", "i >= 0 && i < size_", "i >= 0 && i <= size_"),
    Mutant("a partial pack taken for a whole one", "bounds", "first + kElements<T> <= size_",
           "first + 1 <= size_"),
    Mutant("packs that ignore where a row starts", "bounds",
           "shift_(static_cast<int>(offset_ % kElements<T>))", "shift_(0)"),
    Mutant("a strided row one too long", "bounds",
           "if (i < size_) pack.values[k] = data[offset_ + i * stride_];",
           "if (i <= size_) pack.values[k] = data[offset_ + i * stride_];"),
    Mutant("a tile of more rows than there are", "bounds",
           "left < blockDim.x ? static_cast<int>(left)", "left < 0 ? static_cast<int>(left)"),
    Mutant("too little shared memory", "bounds",
           "const int64_t shared = inputs * packs * kPackBytes;",
           "const int64_t shared = inputs * (packs - 1) * kPackBytes;", PLAN),
    Mutant("too little workspace", "bounds",
           "static_cast<size_t>(plan.blocks) * (1 + kMaxSums) * opmath",
           "static_cast<size_t>(plan.blocks) * kMaxSums * opmath", PLAN),
    Mutant("no rescale between rounds", "value", "formula.rescale(before, max);", ""),
    Mutant("no rescale to the block's max", "value",
           "formula.rescale(own, max);\n  reduce(formula, group);", "reduce(formula, group);"),
    Mutant("no rescale of a part", "value", "formula.rescale(own, partial.max);", ""),
    Mutant("no rescale of the parts to the row", "value",
           "formula.rescale(partials[i].max, max);", ""),
    Mutant("a moment that is not moved", "value", "moment = p * (moment + z * power);",
           "moment = p * moment;", MATH),
    Mutant("a sum over half a warp", "value",
           "      if (bit < lanes) {\n", "      if (2 * bit < lanes) {\n"),
    Mutant("a max over half a warp", "value", "if (bit < lanes) x = larger(",
           "if (2 * bit < lanes) x = larger("),
    Mutant("padding that counts", "value", "S(-INFINITY)", "S(0)"),
    Mutant("the smooth term at t", "value", "const S smooth_z = octaves(a, max, inverse_st_);",
           "const S smooth_z = octaves(a, max, inverse_t_);"),
    Mutant("no mean in the smooth term", "value", "(g - at_st.mean)", "(g)", MATH),
    Mutant("an entropy gradient of the wrong sign", "value",
           "(p * at_t.slope) * (g - tilt * z - at_t.mean);\n  const",
           "(p * at_t.slope) * (g + tilt * z - at_t.mean);\n  const", MATH),
    Mutant("a round that is not written", "value", "rounds > 0; --rounds",
           "rounds > 1; --rounds"),
    Mutant("a row's temperature for its neighbour", "value", "data + row * stride",
           "data + stride"),
]  # fmt: skip


def compile_object(compiler: str, kind: str, source: Path, include: list[Path], to: Path) -> None:
    command = [compiler, "-std=c++20", "-O0", "-g", "-w", "-fno-strict-aliasing"]
    command += [*SANITIZERS[kind], *(f"-I{path}" for path in include)]
    subprocess.run([*command, "-xc++", "-c", str(source), "-o", str(to)], check=True)


def compile_tests(compiler: str, kind: str, kernels: Path, folder: Path) -> list[Path]:
    """The objects that only a broken header concerns."""
    folder.mkdir(exist_ok=True)
    objects = []
    for source in (SIMT / "simt.cpp", TESTS / "sn_softmax_cuda_test.cpp"):
        objects.append(folder / f"{source.stem}.o")
        compile_object(compiler, kind, source, [SIMT, kernels, TESTS], objects[-1])
    return objects


def build(compiler: str, kind: str, kernels: Path, tests: list[Path], folder: Path) -> Path:
    """The test program with the sources in `kernels`."""
    target, program = folder / "kernels.o", folder / "test"
    compile_object(compiler, kind, kernels / CUDA, [SIMT, kernels], target)
    command = [compiler, *SANITIZERS[kind], str(target), *map(str, tests)]
    subprocess.run([*command, "-pthread", "-o", str(program)], check=True)
    return program


def run(program: Path) -> tuple[int, str]:
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    try:
        result = subprocess.run(
            [program, "few"], capture_output=True, text=True, timeout=300, env=environment
        )
    except subprocess.TimeoutExpired:
        return -1, "timed out"
    return result.returncode, result.stdout + result.stderr


def verdict(compiler: str, mutant: Mutant | None, kind: str, tests: list[Path]) -> str:
    """What went wrong, or an empty string; `tests` are the objects of the unbroken headers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kernels = folder / "kernels"
        kernels.mkdir()
        for path in KERNELS.iterdir():
            text = path.read_text()
            if mutant is not None and path.name == mutant.file:
                if text.count(mutant.old) != 1:
                    return f"{mutant.old!r} occurs {text.count(mutant.old)} times, not once"
                text = text.replace(mutant.old, mutant.new)
            (kernels / path.name).write_text(text)
        if mutant is not None and mutant.file == PLAN:
            tests = compile_tests(compiler, kind, kernels, folder / "tests")
        code, output = run(build(compiler, kind, kernels, tests, folder))
    if mutant is None:
        return "" if code == 0 else f"the unbroken sources fail:\n{output[:2000]}"
    if code == 0:
        return "survived"
    if not any(evidence in output for evidence in EVIDENCE[kind]):
        return f"failed, but not with {' or '.join(EVIDENCE[kind])}:\n{output[:2000]}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("names", nargs="*", help="mutants to try; all of them by default")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")

    jobs: list[tuple[Mutant | None, str]] = [(None, kind) for kind in SANITIZERS]
    jobs += [(m, m.kind) for m in MUTANTS if not arguments.names or m.name in arguments.names]
    failed = 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = pool.map(
            lambda kind: compile_tests(arguments.compiler, kind, KERNELS, Path(name) / kind),
            SANITIZERS,
        )
        tests = dict(zip(SANITIZERS, compiled, strict=True))
        verdicts = pool.map(
            lambda job: verdict(arguments.compiler, job[0], job[1], tests[job[1]]), jobs
        )
        for (mutant, kind), problem in zip(jobs, verdicts, strict=True):
            title = "unbroken" if mutant is None else mutant.name
            print(f"{kind:6}  {title:44}  {problem or ('passes' if mutant is None else 'caught')}")
            sys.stdout.flush()
            failed += bool(problem)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
