"""Proves that the rig can fail: breaks the CUDA sources in one place and wants it noticed.

Each mutant is compiled as the tests are, under the sanitizer that should see it, and run on a few
cases of every regime. A mutant that survives, or is noticed for another reason, is an error, and
so is an unbroken source that does not pass. Run by ctest in the thread sanitizer's build:

    python -m tests.csrc.mutants [--compiler g++] [name ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.csrc import node_convolve_mutants
from tests.csrc.mutant import SYNC, Mutant

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "csrc/kernels"
SIMT = ROOT / "csrc/simt"
TESTS = ROOT / "tests/csrc"
MIXTURE, RECTIFY = "mixture", "rectify_average"
DEPTHWISE = "depthwise"
SANITIZERS = {
    "race": ["-fsanitize=thread"],
    "bounds": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "value": ["-DSIMT_FIBERS"],
    "rig": ["-DSIMT_FIBERS"],
}
# What the output must say; a mutant may well be wrong in other ways at the same time.
EVIDENCE = {
    "race": ["ThreadSanitizer: data race"],
    "bounds": ["ERROR: AddressSanitizer", "runtime error: "],
    "value": ["_cases.h:", "rectify_average_cuda_test.cpp:", "node_convolve_cuda_test.cpp:"],
    "rig": ["simt: "],
}


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
           "static_cast<size_t>(plan.kept * inputs * kPackBytes)",
           "static_cast<size_t>((plan.kept - 1) * inputs * kPackBytes)"),
    Mutant("a pack of another thread's", "value",
           "in[i] = kept.get(first + i * group.size());",
           "in[i] = kept.get((first + i * group.size()) ^ 1);"),
    Mutant("no waiting for the other blocks' parts", "race",
           "cluster.arrive();\n  cluster.wait();\n  const auto at", "const auto at"),
    Mutant("a cluster's row merged from one part", "value", "merge(at, blocks, formula)",
           "merge(at, 1, formula)"),
    Mutant("too little workspace", "bounds",
           "static_cast<size_t>(plan.blocks) * (1 + kMaxSums) * opmath",
           "static_cast<size_t>(plan.blocks) * kMaxSums * opmath"),
    Mutant("no rescale between rounds", "value", "formula.rescale(before, max);", ""),
    Mutant("no rescale to the block's max", "value",
           "formula.rescale(own, max);\n  reduce(formula, group);", "reduce(formula, group);"),
    Mutant("no rescale of a part", "value", "formula.rescale(own, partial.max);", ""),
    Mutant("no rescale of the parts to the row", "value",
           "formula.rescale(partial(i).max, max);", ""),
    Mutant("a moment that is not moved", "value", "moment = p * (moment + z * power);",
           "moment = p * moment;"),
    Mutant("a sum over half a warp", "value",
           "      if (bit < lanes) {\n", "      if (2 * bit < lanes) {\n"),
    Mutant("a max over half a warp", "value", "if (bit < lanes) x = larger(",
           "if (2 * bit < lanes) x = larger("),
    Mutant("padding that counts", "value", "S(-INFINITY)", "S(0)"),
    Mutant("the smooth term at t", "value", "exponent<false>(a, max, inverse_st_)",
           "exponent<false>(a, max, inverse_t_)"),
    Mutant("no mean in the smooth term", "value", "(g - at_st.mean)", "(g)"),
    Mutant("an entropy gradient of the wrong sign", "value",
           "(p * at_t.slope) * (g - tilt * z - at_t.mean);\n  const",
           "(p * at_t.slope) * (g + tilt * z - at_t.mean);\n  const"),
    Mutant("a round that is not written", "value", "rounds > 0; --rounds",
           "rounds > 1; --rounds"),
    Mutant("a row's temperature for its neighbour", "value", "data + row * stride",
           "data + stride"),
    Mutant("no barrier between the mixture's warps", "race",
           f"total[r]);\n    }}\n    {SYNC}", "total[r]);\n    }", MIXTURE),
    Mutant("no barrier in the mixture's merges", "race",
           f"{SYNC}\n  if (threadIdx.x >= kColumns)", "if (threadIdx.x >= kColumns)", MIXTURE),
    Mutant("every lane of a warp writes its sum", "race",
           "writes = writes && (threadIdx.x & bit) == 0;", "", MIXTURE),
    Mutant("a pixel too many for a chunk", "bounds", "end(begin + chunks.pixels(chunk))",
           "end(begin + chunks.pixels(chunk) + 1)", MIXTURE),
    Mutant("a pixel too many ahead", "bounds",
           "if (p + u * layout.lanes < range.end) {", "if (p < range.end) {", MIXTURE),
    Mutant("a pack of channels too many", "bounds", "pack < layout.packs)",
           "pack <= layout.packs)", MIXTURE),
    Mutant("packs whatever the maps' alignment", "bounds",
           "reinterpret_cast<uintptr_t>(map.data) % 16 == 0", "true", MIXTURE),
    Mutant("too little workspace for the mixture", "bounds",
           "(1 + maps) * kChunks + 3 * args.normalized", "maps + 3 * args.normalized", MIXTURE),
    Mutant("a map of weight 0 is read", "bounds", "counts[m] = weight != S(0);",
           "counts[m] = i + m < maps;", MIXTURE),
    Mutant("a sum over a map of weight 0", "bounds", "weights[first + m] != S(0)", "true", MIXTURE),
    Mutant("the gradient of a map of weight 0", "bounds", "args.normalized && weight != S(0)",
           "args.normalized", MIXTURE),
    Mutant("known moments that do not count", "value", "double* const given = known.of[map];",
           "double* const given = nullptr;", MIXTURE),
    Mutant("statistics of a map that was left out", "value",
           "running.mean[map] != nullptr && !moments.left_out()", "running.mean[map] != nullptr",
           MIXTURE),
    Mutant("a longer chunk that is not", "value", "size + (i < longer ? 1 : 0)", "size", MIXTURE),
    Mutant("a shuffle over half the lanes", "value", "for (; bit >= tile_; bit /= 2)",
           "for (; bit > tile_; bit /= 2)", MIXTURE),
    Mutant("a fold over half the lanes", "value", "if (bit >= tile_) {", "if (bit > tile_) {",
           MIXTURE),
    Mutant("a lane's own half taken for the other's", "value",
           "given = upper ? x[r][v] : x[r][v + W / 2]",
           "given = upper ? x[r][v + W / 2] : x[r][v]", MIXTURE),
    Mutant("the first warp alone", "value", "slot < slots_", "slot < 1", MIXTURE),
    Mutant("half of the lanes in a merge", "value", "bit >= kColumns; bit /= 2",
           "bit > kColumns; bit /= 2", MIXTURE),
    Mutant("the first warp alone in a merge", "value", "i < kWarps; ++i", "i < 1; ++i", MIXTURE),
    Mutant("chunks that are not merged", "value",
           "first + u * kMergeLanes < chunks.count", "first + u * kMergeLanes < kMergeLanes",
           MIXTURE),
    Mutant("sums of chunks that are not merged", "value",
           "first + u * kMergeLanes < chunks;", "first + u * kMergeLanes < kMergeLanes;",
           MIXTURE),
    Mutant("a shift that is not added back", "value", "{n, shift + mean,", "{n, mean,",
           MIXTURE),
    Mutant("squares that are not moved to the chunk's shift", "value",
           "squares[v] + delta * (2.0 * sum[v] + moved)", "squares[v]", MIXTURE),
    Mutant("moments merged without their distance", "value",
           "total[1] += m2[u] + moved * delta;", "total[1] += m2[u];", MIXTURE),
    Mutant("a map's statistics for its neighbour", "value",
           "shift[m] = coefficients<S, V>(mean + (i + m) * args.channels + channel);",
           "shift[m] = coefficients<S, V>(mean + channel);", MIXTURE),
    Mutant("the first group of maps alone", "value", "blockIdx.x) * kMaps<V>", "blockIdx.x) * 0",
           MIXTURE),
    Mutant("gradients of the first maps alone", "value", "(blockIdx.x - run * groups) * kWritten",
           "(blockIdx.x - run * groups) * 0", MIXTURE),
    Mutant("a gradient without the batch's mean", "value", "training ? total[0] : 0.0", "0.0",
           MIXTURE),
    Mutant("an accumulated gradient that is replaced", "value",
           "d += to_opmath(before[u]", "d += 0 * to_opmath(before[u]", MIXTURE),
    Mutant("dw of the last terms", "value", "total[0] += static_cast<double>(scales[u])",
           "total[0] = static_cast<double>(scales[u])", MIXTURE),
    Mutant("no barrier after the readers' weights", "race", f"{SYNC}\n  if", "if",
           RECTIFY),
    Mutant("a row below the map", "bounds", "row < layout.height;",
           "row <= layout.height;", RECTIFY),
    Mutant("packs that ignore where a map starts", "bounds",
           "reinterpret_cast<uintptr_t>(map) % 16 == 0", "map != nullptr", RECTIFY),
    Mutant("a right neighbour in the next row", "value", "right(at + layout.pixel < layout.line)",
           "right(at < layout.line)", RECTIFY),
    Mutant("a gradient by the count of its reader's window", "value",
           "share(place.at - layout.pixel)", "share(place.at)", RECTIFY),
    Mutant("a second launch that starts anew", "value", "accumulate = true;", "", RECTIFY),
    Mutant("no barrier before the taps of results", "race",
           f"taps.load(layout, edges, bundle.first, bundle.count);\n  {SYNC}",
           "taps.load(layout, edges, bundle.first, bundle.count);", DEPTHWISE),
    Mutant("no barrier before the taps of gradients", "race",
           f"taps.load(layout, edges, first, count);\n    {SYNC}",
           "taps.load(layout, edges, first, count);", DEPTHWISE),
    Mutant("no barrier after the taps of gradients", "race", f"if (first > begin) {SYNC}", "",
           DEPTHWISE),
    Mutant("no barrier before a tap's sums", "race", f"own[j].lane[v];\n    {SYNC}",
           "own[j].lane[v];", DEPTHWISE),
    Mutant("no barrier after a tap's sums", "race", f"    }}\n    {SYNC}\n  }}", "    }\n  }",
           DEPTHWISE),
    Mutant("a pack of channels past the last", "bounds", "channel < edge.channels;",
           "channel <= edge.channels;", DEPTHWISE),
    Mutant("a result past the last", "bounds", "if (!place.there || index >= layout.count())",
           "if (!place.there || index > layout.count())", DEPTHWISE),
    Mutant("a gradient past the last", "bounds", "place.there && index < layout.count()",
           "place.there && index <= layout.count()", DEPTHWISE),
    Mutant("a row and a column past the last", "bounds", "found >= 0 && found < size",
           "found >= 0 && found <= size", DEPTHWISE),
    Mutant("packs whatever x's alignment", "bounds", "if (!aligned(map)) return false;", "",
           DEPTHWISE),
    Mutant("packs whatever the edges' alignment", "bounds",
           "if (!aligned(edge.map)) return false;", "", DEPTHWISE),
    Mutant("packs whatever the number of channels", "bounds", "|| edge.channels % pack != 0", "",
           DEPTHWISE),
    Mutant("packs whatever lies beside a map", "bounds", "edge.pitch % pack != 0 ||", "",
           DEPTHWISE),
    Mutant("taps of channels past the last", "bounds",
           "left < layout.group * V ? left : layout.group * V", "layout.group * V", DEPTHWISE),
    Mutant("taps of an edge past the last", "bounds",
           "e < count; ++e) {\n      const DepthwiseEdge& edge = edges.edge[first + e];\n"
           "      const int taps",
           "e <= count; ++e) {\n      const DepthwiseEdge& edge = edges.edge[first + e];\n"
           "      const int taps", DEPTHWISE),
    Mutant("a bundle of more edges than a block takes", "bounds", "count < most) {",
           "count <= most) {", DEPTHWISE),
    Mutant("sums of channels past the last", "bounds",
           "me < layout.group * V && channel < edge.channels", "me < layout.group * V", DEPTHWISE),
    Mutant("a part too many", "bounds", "dim3(static_cast<unsigned>(count), groups, rows)",
           "dim3(static_cast<unsigned>(count + 1), groups, rows)", DEPTHWISE),
    Mutant("a merged sum past the last", "bounds", "if (i >= size) return;",
           "if (i > size) return;", DEPTHWISE),
    Mutant("padding on one side too wide", "value", "stride * at + dilation * tap - padding",
           "stride * at + dilation * tap - padding - 1", DEPTHWISE),
    Mutant("readers that the stride passes by", "value",
           "spread % stride == 0 ? spread / stride : I(-1)", "spread / stride", DEPTHWISE),
    Mutant("a row of the image above", "value",
           "row(index / layout.to.width % layout.to.height)", "row(index / layout.to.width)",
           DEPTHWISE),
    Mutant("the first image alone", "value", "index / layout.to.width / layout.to.height", "0",
           DEPTHWISE),
    Mutant("a normalisation that is not rectified", "value",
           "normalized < V{} ? V{} : normalized", "normalized", DEPTHWISE),
    Mutant("a gradient that passes the ReLU", "value", "u > V{} ? grad : V{}", "grad", DEPTHWISE),
    Mutant("rectified padding", "value",
           "if (!inside[j]) continue;  // zeros, also where x is rectified", "", DEPTHWISE),
    Mutant("a mean for the channels before", "value", "(layout.mean)[channel + v]",
           "(layout.mean)[v]", DEPTHWISE),
    Mutant("the first edges' taps for all", "value",
           "edges.edge[first + e];\n      const int taps", "edges.edge[e];\n      const int taps",
           DEPTHWISE),
    Mutant("results of the first edges alone", "value", "bundles.of[blockIdx.z]", "bundles.of[0]",
           DEPTHWISE),
    Mutant("edges in a bundle whatever their dilation", "value",
           "&& before.dilation == edge.dilation", "", DEPTHWISE),
    Mutant("results of the first channels alone", "value", "window.begin + place.channel",
           "place.channel", DEPTHWISE),
    Mutant("gradients of the first edges alone", "value", "first < end; first += kEdges",
           "first < begin + 1; first += kEdges", DEPTHWISE),
    Mutant("gradients of channels that others have read", "value",
           "edges.apart ? begin + 1 : edges.count", "edges.count", DEPTHWISE),
    Mutant("a kernel that lies on its side", "value", "tap[e][i % taps][i / taps]",
           "tap[e][i % taps % edge.kernel * edge.kernel + i % taps / edge.kernel][i / taps]",
           DEPTHWISE),
    Mutant("the taps of the group's first pack", "value",
           "taps.tap[e][i * K + j][place.pack * V + v]", "taps.tap[e][i * K + j][v]", DEPTHWISE),
    Mutant("a slice's pixels without the others' channels", "bounds",
           "static_cast<int64_t>(index) * edge.pitch",
           "static_cast<int64_t>(index) * layout.channels", DEPTHWISE),
    Mutant("an edge's gradient for its neighbour's kernel", "value",
           "static_cast<int>(blockIdx.z) / kMostRows", "0", DEPTHWISE),
    Mutant("rows that a kernel has not", "bounds", "if (i >= edge.kernel) return;", "", DEPTHWISE),
    Mutant("all edges' sums in one place", "value", "edges.taps_before(number) +", "", DEPTHWISE),
    Mutant("sums of the first pixel alone", "value", "p < layout.pixels; ++p", "p < 1; ++p",
           DEPTHWISE),
    Mutant("pixels that are counted twice", "value", "at += step)", "at += step / 2)", DEPTHWISE),
    Mutant("the first part alone", "value", "part < count; ++part", "part < 1; ++part",
           DEPTHWISE),
    *node_convolve_mutants.MUTANTS,
]  # fmt: skip


def compile_object(compiler: str, kind: str, source: Path, include: list[Path], to: Path) -> None:
    command = [compiler, "-std=c++20", "-O0", "-g", "-w", "-fno-strict-aliasing"]
    command += [*SANITIZERS[kind], *(f"-I{path}" for path in include)]
    subprocess.run([*command, "-xc++", "-c", str(source), "-o", str(to)], check=True)


def compile_tests(
    compiler: str, kind: str, operator: str, kernels: Path, folder: Path
) -> list[Path]:
    """The objects that only a broken header concerns."""
    folder.mkdir(exist_ok=True)
    objects = []
    for source in (SIMT / "simt.cpp", TESTS / f"{operator}_cuda_test.cpp"):
        objects.append(folder / f"{source.stem}.o")
        compile_object(compiler, kind, source, [SIMT, kernels, TESTS], objects[-1])
    return objects


def build(
    compiler: str, kind: str, operator: str, kernels: Path, tests: list[Path], folder: Path
) -> Path:
    """The test program with the sources in `kernels`."""
    target, program = folder / "kernels.o", folder / "test"
    source = kernels / operator / f"{operator}_cuda.cu"
    compile_object(compiler, kind, source, [SIMT, kernels], target)
    command = [compiler, *SANITIZERS[kind], str(target), *map(str, tests)]
    subprocess.run([*command, "-pthread", "-o", str(program)], check=True)
    return program


def run(program: Path, part: str) -> tuple[int, str]:
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    try:
        result = subprocess.run(
            [program, "few", part], capture_output=True, text=True, timeout=900, env=environment
        )
    except subprocess.TimeoutExpired:
        return -1, "timed out"
    return result.returncode, result.stdout + result.stderr


def is_of(path: Path, operator: str) -> bool:
    return path.parent.name == operator and "_cpu" not in path.name


def places(mutant: Mutant) -> list[str]:
    """The file of each place that the mutant would break."""
    return [
        path.name
        for path in KERNELS.rglob("*.*")
        if is_of(path, mutant.operator)
        for _ in range(path.read_text().count(mutant.old))
    ]


def verdict(
    compiler: str, operator: str, mutant: Mutant | None, kind: str, tests: list[Path]
) -> str:
    """What went wrong, or an empty string; `tests` are the objects of the unbroken headers."""
    broken = [] if mutant is None else places(mutant)
    if mutant is not None and len(broken) != 1:
        return f"{mutant.old!r} occurs {len(broken)} times, not once"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kernels = folder / "kernels"
        for path in KERNELS.rglob("*.*"):
            text = path.read_text()
            if mutant is not None and is_of(path, operator):
                text = text.replace(mutant.old, mutant.new)
            copy = kernels / path.relative_to(KERNELS)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)
        if broken == ["sn_softmax_plan.h"]:
            tests = compile_tests(compiler, kind, operator, kernels, folder / "tests")
        program = build(compiler, kind, operator, kernels, tests, folder)
        code, output = run(program, "" if mutant is None else mutant.part)
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

    wanted = [m for m in MUTANTS if not arguments.names or m.name in arguments.names]
    unbroken = sorted({(m.operator, m.kind) for m in wanted})
    jobs: list[tuple[str, str, Mutant | None]] = [(*pair, None) for pair in unbroken]
    jobs += [(m.operator, m.kind, m) for m in wanted]
    failed = 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = pool.map(
            lambda pair: compile_tests(
                arguments.compiler, pair[1], pair[0], KERNELS, Path(name) / "-".join(pair)
            ),
            unbroken,
        )
        tests = dict(zip(unbroken, compiled, strict=True))
        verdicts = pool.map(
            lambda job: verdict(arguments.compiler, job[0], job[2], job[1], tests[job[:2]]), jobs
        )
        for (operator, kind, mutant), problem in zip(jobs, verdicts, strict=True):
            title = f"unbroken {operator}" if mutant is None else mutant.name
            print(f"{kind:6}  {title:44}  {problem or ('passes' if mutant is None else 'caught')}")
            sys.stdout.flush()
            failed += bool(problem)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
