"""Time of a bilevel step: a search's own against those of conventional supernets.

``python -m bench.step [--peer PATH] [--device cpu|cuda]`` prints tables and writes
``bench/results/step.json`` (on a GPU ``step-cuda.json``). The conventional supernets are those of
`bench.rivals`, AutoDL-Projects' among them with ``--peer``. This project's is `Search.step` with a
method's weights, clipping, norms and records, on images that the search's own batches give.
Variants take turns in one process; medians are reported. On a GPU the supernets have the paper's
size, and this project's step is timed as a CUDA graph too, which is how a search runs it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from bench.rivals import CLASSES, Size, Step, conventional_step, peer
from bench.timing import RESULTS, machine, timer, write_json
from darts import Search
from darts.config import Precision
from darts.data import ImageSet
from darts.devices.capture import WARM_UP
from darts.recipes import configure
from darts.spaces import DARTS, NB201, Space

METHODS = ("edd", "darts-v1")
"""Of the searches whose steps are timed everywhere: sn-softmax, and plain softmax."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
SHARP = 1e-6
"""A temperature at which β is one-hot up to rounding at DARTS's initial α."""


@dataclass
class Row:
    """One variant's result; ``times`` in seconds."""

    name: str
    times: list[float]
    peak_bytes: int

    @property
    def median(self) -> float:
        """Median time of a step in seconds."""
        return statistics.median(self.times)


def random_images(count: int) -> ImageSet:
    """So many training images of 3x32x32, whose labels are all of `CLASSES`."""
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    return ImageSet("random", images, labels, images[:1], labels[:1])


def search_step(
    method: str,
    space: Space,
    size: Size,
    precision: Precision = "float32",
    *,
    captured: bool = False,
    temperature: float | None = None,
    own_convolutions: bool = False,
) -> Step:
    """`Search.step` of a method with its published settings, but for the size, halfway through.

    ``captured`` makes it one CUDA graph, on a GPU. ``temperature``: another than the method's.
    ``own_convolutions``: as the setting of the supernet.
    """
    config = configure(
        method=method,
        space=space.name,
        device=size.device,
        data={"batch_size": size.batch},
        supernet={
            "channels": size.channels,
            "cells": size.cells,
            "precision": precision,
            "own_convolutions": own_convolutions,
        },
    )
    search = Search(config, images=random_images(2 * size.batch))
    for epoch in range(config.epochs // 2):
        search.method.begin_epoch(epoch)
    if temperature is not None:
        search.method.set_temperature(temperature)
    search.method.prepare(search.net)
    search.net.train()
    run = search.captured_step() if captured else search.step
    pair = next(search.batches.epoch())
    return lambda: run(*pair)


def search_steps(space: Space, size: Size) -> dict[str, Step]:
    """Those of `METHODS` in each precision; on a GPU also as graphs."""
    return {
        f"{method}, {precision}{', captured' if captured else ''}": search_step(
            method, space, size, precision, captured=captured
        )
        for captured in ((False, True) if size.on_gpu else (False,))
        for method in METHODS
        for precision in PRECISIONS
    }


def own_convolutions(space: Space, size: Size) -> dict[str, Step]:
    """EDD's step as a graph by the package's own convolutions, also where β leaves most of them
    out.
    """
    return {
        f"edd, {precision}, captured, own convolutions{name}": search_step(
            "edd", space, size, precision, captured=True, temperature=t, own_convolutions=True
        )
        for name, t in (("", None), (", small temperature", SHARP))
        for precision in PRECISIONS
    }


def timed(step: Step, size: Size) -> float:
    """Seconds of one step."""
    now = timer(torch.device(size.device))
    start = now()
    step()
    return now() - start


def peak_bytes(step: Step, size: Size) -> int:
    """Most bytes that tensors made during a step hold at once."""
    if size.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - held
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    profiler = profile.profiler
    assert profiler is not None
    assert profiler.kineto_results is not None
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def compare(steps: Mapping[str, Step], size: Size, rounds: int) -> list[Row]:
    """Times of the variants of a size, taken in turns after a few steps to warm up.

    A turn is a step that is not timed and one that is: in a search a step follows its own kind,
    and finds its memory where that left it.
    """
    peaks = {}
    for name, step in steps.items():
        step()
        peaks[name] = peak_bytes(step, size)  # before a step that is captured becomes a graph
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            times[name].append(timed(step, size))
    return [Row(name, times[name], peaks[name]) for name in steps]


@dataclass
class Counts:
    """Operators that touch data, and the maps that they read and write, in one bilevel step."""

    operators: float = 0
    read: float = 0
    written: float = 0


class Counter(TorchDispatchMode):
    """Counts what reaches the kernels, in forward and backward.

    A map is a tensor of at least ``smallest`` elements.
    """

    def __init__(self, smallest: int) -> None:
        super().__init__()
        self.smallest = smallest
        self.counts = Counts()

    def maps(self, values: object) -> int:
        """How many maps there are in a nest of values."""
        leaves = tree_flatten(values)[0]
        return sum(isinstance(x, Tensor) and x.numel() >= self.smallest for x in leaves)

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        aliases = [a.alias_info for a in (*func._schema.arguments, *func._schema.returns)]
        only_a_view = any(aliases) and not any(a is not None and a.is_write for a in aliases)
        if only_a_view or func.name().startswith(("aten::empty", "aten::detach")):
            return out
        self.counts.operators += 1
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.counts.written += self.maps(value)
            else:
                self.counts.read += self.maps(value)
        if not any(r.alias_info is not None for r in func._schema.returns):
            self.counts.written += self.maps(out)
        return out


def counts(step: Step, size: Size) -> Counts:
    """Of one step; the smallest map is that of the last stage."""
    counter = Counter(size.batch * 4 * size.channels * 8 * 8)
    with counter:
        step()
    return counter.counts


def per_cell(make: Callable[[Size], Step]) -> Counts:
    """What one more cell in each of the three stages adds, divided by three."""
    found = []
    for cells in (1, 2):
        size = Size(cells=cells, batch=16)
        step = make(size)
        step()
        found.append(counts(step, size))
    one, two = found
    return Counts(
        (two.operators - one.operators) / 3,
        (two.read - one.read) / 3,
        (two.written - one.written) / 3,
    )


def print_rows(title: str, rows: list[Row]) -> None:
    """A table; ratios are to the first row."""
    print(f"\n{title}")
    print(f"{'':40s}{'ms/step':>9s}{'ratio':>8s}{'peak MiB':>10s}")
    for row in rows:
        ratio = rows[0].median / row.median
        print(f"{row.name:40s}{row.median * 1e3:9.1f}{ratio:7.2f}x{row.peak_bytes / 2**20:10.1f}")


def scaling(rounds: int) -> dict[str, float]:
    """Seconds of EDD's float32 step as cells, batch and channels grow."""
    sizes = [Size(cells=n) for n in (1, 2, 4)]
    sizes += [Size(batch=b) for b in (32, 128)] + [Size(channels=c) for c in (8, 32)]
    result = {}
    for size in sizes:
        (row,) = compare({"": search_step("edd", NB201, size)}, size, rounds)
        name = f"C={size.channels} N={size.cells} batch={size.batch}"
        result[name] = row.median
        print(f"{name:40s}{row.median * 1e3:9.1f}")
    return result


def variants(size: Size, peer_path: Path | None) -> dict[str, Step]:
    """What is compared on NAS-Bench-201, the slowest first."""
    steps: dict[str, Step] = {}
    if peer_path is not None:
        steps["AutoDL-Projects, float32"] = peer(peer_path, size).step
    steps["module per operation, float32"] = conventional_step(NB201, size)
    bf16 = torch.bfloat16
    if size.on_gpu:
        steps["module per operation, bfloat16"] = conventional_step(NB201, size, bf16)
    # Compiling takes two minutes at N=1; N=5 would take most of a short time on a GPU.
    kind = "captured" if size.on_gpu else "compiled"
    for name, autocast in (("float32", None), ("bfloat16", bf16)):
        rival = conventional_step(NB201, size, autocast, tuned=True, compiled=not size.on_gpu)
        steps[f"module per operation, {name}, {kind}"] = rival
    if size.on_gpu:
        return steps | search_steps(NB201, size) | own_convolutions(NB201, size)
    steps |= search_steps(NB201, size)
    for precision in PRECISIONS:
        sharp = search_step("edd", NB201, size, precision, temperature=SHARP)
        steps[f"edd, small temperature, {precision}"] = sharp
        steps[f"gdas, {precision}"] = search_step("gdas", NB201, size, precision)
    return steps


def growth(rounds: int) -> dict[str, object]:
    """What a cell adds to a step, and seconds of EDD's in float32 as the supernet grows."""
    makers: dict[str, Callable[[Size], Step]] = {
        "module per operation": lambda s: conventional_step(NB201, s),
        "edd": lambda s: search_step("edd", NB201, s),
    }
    print(f"\n{'Per cell and bilevel step':40s}{'operators':>10s}{'maps read':>10s}{'written':>9s}")
    counted = {}
    for name, make in makers.items():
        found = per_cell(make)
        counted[name] = asdict(found)
        print(f"{name:40s}{found.operators:10.0f}{found.read:10.0f}{found.written:9.0f}")
    print(f"\n{'Growth, edd, float32':40s}{'ms/step':>9s}")
    return {"per_cell": counted, "scaling": scaling(rounds)}


def main() -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="a checkout of AutoDL-Projects")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--skip-darts", action="store_true", help="leave out the DARTS space")
    parser.add_argument("--out", type=Path, help="result [bench/results/step.json]")
    arguments = parser.parse_args()
    if arguments.peer is not None and not (arguments.peer / "xautodl").is_dir():
        parser.error(f"--peer {arguments.peer} has no xautodl folder")
    gpu = arguments.device == "cuda"
    out = arguments.out or RESULTS / ("step-cuda.json" if gpu else "step.json")

    size = Size(cells=5 if gpu else 1, device=arguments.device)
    rows = compare(variants(size, arguments.peer), size, arguments.rounds)
    print_rows(f"NAS-Bench-201, C=16, N={size.cells}, batch 64", rows)
    report: dict[str, object] = {"nb201": [asdict(row) for row in rows]}
    few = max(3, arguments.rounds // 3)
    if not gpu:
        report |= growth(few)
    if not arguments.skip_darts:
        deep = Size(cells=8, device=arguments.device)
        steps = {"module per operation, float32": conventional_step(DARTS, deep)}
        steps |= search_steps(DARTS, deep) | (own_convolutions(DARTS, deep) if gpu else {})
        rows = compare(steps, deep, few)
        print_rows("DARTS space, C=16, 8 cells, batch 64", rows)
        report["darts"] = [asdict(row) for row in rows]

    report["machine"] = {**machine(torch.device(arguments.device)), "rounds": arguments.rounds}
    write_json(out, report)
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
