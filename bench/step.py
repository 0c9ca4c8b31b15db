"""Time of a bilevel step: the fast supernet against conventional ones.

``python -m bench.step [--peer PATH] [--device cpu|cuda]`` prints tables and writes
``bench/results/step.json`` (on a GPU ``step-cuda.json``). The conventional supernets are the one in
tests/reference and, with ``--peer``, that of an unmodified checkout of AutoDL-Projects
(github.com/D-X-Y/AutoDL-Projects), run with its own step. Variants take turns in one process;
medians are reported. On a GPU the supernets have the paper's size, and this project's step is timed
as a CUDA graph too, which is how a search runs it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from bench.timing import RESULTS, machine, timer, write_json
from darts.devices.capture import WARM_UP, CapturedStep
from darts.spaces import DARTS, NB201, Space
from darts.supernet import build_supernet, live_operations
from darts.supernet.step import Batch, arch_step, weight_step
from tests.reference.supernet import ReferenceSupernet

Step = Callable[[], object]
CLASSES = 10
VALIDATION_BATCH = 512
"""Of AutoDL-Projects, in its configuration of weight-sharing searches."""


@dataclass(frozen=True)
class Size:
    """Of a supernet and its batches of 3x32x32 images."""

    channels: int = 16
    cells: int = 1
    batch: int = 64


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


def on_gpu() -> bool:
    """Whether steps are made for a GPU, which is then the default device."""
    return torch.get_default_device().type == "cuda"


def batches(size: Size) -> tuple[Batch, Batch]:
    """Random training and validation images and labels."""
    torch.manual_seed(0)
    one = lambda: (torch.randn(size.batch, 3, 32, 32), torch.randint(CLASSES, (size.batch,)))  # noqa: E731
    return one(), one()


def optimizers(
    weights: list[nn.Parameter], alphas: list[Tensor], fused: bool | None = None
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Those of the usual NAS-Bench-201 recipe."""
    return (
        torch.optim.SGD(
            weights, 0.025, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=fused
        ),
        torch.optim.Adam(
            alphas,
            3e-4,
            betas=(0.5, 0.999),
            weight_decay=1e-3,
            fused=fused,
            capturable=bool(fused) and alphas[0].is_cuda,
        ),
    )


def new_alphas(space: Space) -> dict[str, Tensor]:
    """α as DARTS initialises it."""
    return {n: (1e-3 * torch.randn(c.shape)).requires_grad_() for n, c in space.cells.items()}


def conventional_step(space: Space, size: Size, precision: torch.dtype | None = None) -> Step:
    """One module per operation, ``backward()`` through everything."""
    train, validation = batches(size)
    net = ReferenceSupernet(space, size.channels, size.cells, CLASSES)
    alphas = new_alphas(space)
    sgd, adam = optimizers(list(net.parameters()), list(alphas.values()))

    def step() -> None:
        for (images, labels), optimizer in ((train, sgd), (validation, adam)):
            sgd.zero_grad()
            adam.zero_grad()
            weights = {name: a.softmax(-1) for name, a in alphas.items()}
            with torch.autocast(images.device.type, precision, precision is not None):
                loss = F.cross_entropy(net(images, weights), labels)
            loss.backward()
            optimizer.step()

    return step


@dataclass
class Peer:
    """What AutoDL-Projects' DARTS (first order) does: the loops of its exps/NATS-algos."""

    step: Step
    """One bilevel step."""
    validation: Step
    """One of the batches of `VALIDATION_BATCH` that the supernet is validated on each epoch."""


def peer(path: Path, size: Size) -> Peer:
    """AutoDL-Projects' supernet from a checkout of it, and its optimisers."""
    sys.path.insert(0, str(path))
    from xautodl.models.cell_operations import NAS_BENCH_201  # type: ignore[import-not-found]
    from xautodl.models.cell_searchs.generic_model import (  # type: ignore[import-not-found]
        GenericNAS201Model,
    )
    from xautodl.utils.evaluation_utils import obtain_accuracy  # type: ignore[import-not-found]

    train, validation = batches(size)
    network = GenericNAS201Model(
        size.channels, size.cells, 4, CLASSES, NAS_BENCH_201, affine=False, track_running_stats=True
    )
    network.set_algo("darts-v1")
    criterion = nn.CrossEntropyLoss()
    sgd, adam = optimizers(network.weights, network.alphas)

    def step() -> None:
        for (images, labels), optimizer in ((train, sgd), (validation, adam)):
            network.set_cal_mode("joint", None)
            network.zero_grad()
            _, logits = network(images)
            loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            obtain_accuracy(logits.data, labels.data, topk=(1,))  # its top 5 fails on this torch
            loss.item()

    images, labels = batches(replace(size, batch=VALIDATION_BATCH))[0]

    @torch.no_grad()
    def validate() -> None:
        network.eval()
        _, logits = network(images)
        criterion(logits, labels).item()
        obtain_accuracy(logits.data, labels.data, topk=(1,))
        network.train()

    return Peer(step, validate)


def fast_step(
    space: Space,
    size: Size,
    precision: torch.dtype | None = None,
    live: str = "all",
    captured: bool = False,
) -> Step:
    """This project's step; ``captured`` makes it one CUDA graph, on a GPU.

    ``live``: "all" operations; "weight step": β is one-hot, as at a small temperature, so the
    weight step computes one operation an edge and the arch step, which needs every gradient of β,
    all; "both": the arch step computes one an edge too, as in GDAS.
    """
    train, validation = batches(size)
    net = build_supernet(space, channels=size.channels, cells=size.cells, classes=CLASSES)
    alphas = new_alphas(space)
    sgd, adam = optimizers(list(net.parameters()), list(alphas.values()), fused=True)

    def weights() -> Mapping[str, Tensor]:
        soft = {name: a.softmax(-1) for name, a in alphas.items()}
        if live == "all":
            return soft
        return {
            name: F.one_hot(w.argmax(-1), w.shape[1]) + w - w.detach() for name, w in soft.items()
        }

    def step(*parts: Tensor) -> list[Tensor]:
        outcome = weight_step(net, parts[:2], weights(), precision=precision)  # type: ignore[arg-type]
        sgd.step()
        chosen = live_operations(weights()) if live == "both" else None
        betas = list(alphas.values())
        arch_step(net, parts[2:], weights, betas, live=chosen, precision=precision)  # type: ignore[arg-type]
        adam.step()
        return [outcome.loss]

    run = CapturedStep(step) if captured else step
    return lambda: run(*train, *validation)


def timed(step: Step) -> float:
    """Seconds of one step."""
    now = timer(torch.get_default_device())
    start = now()
    step()
    return now() - start


def peak_bytes(step: Step) -> int:
    """Most bytes that tensors made during a step hold at once."""
    if on_gpu():
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


def compare(steps: Mapping[str, Step], rounds: int) -> list[Row]:
    """Times of the variants, taken in turns after a few steps to warm up."""
    peaks = {}
    for name, step in steps.items():
        step()
        peaks[name] = peak_bytes(step)  # before a step that is captured becomes a graph
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(timed(step))
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
    """Seconds of a float32 step as cells, batch and channels grow."""
    sizes = [Size(cells=n) for n in (1, 2, 4)]
    sizes += [Size(batch=b) for b in (32, 128)] + [Size(channels=c) for c in (8, 32)]
    result = {}
    for size in sizes:
        (row,) = compare({"": fast_step(NB201, size)}, rounds)
        name = f"C={size.channels} N={size.cells} batch={size.batch}"
        result[name] = row.median
        print(f"{name:40s}{row.median * 1e3:9.1f}")
    return result


def variants(size: Size, peer_path: Path | None) -> dict[str, Step]:
    """What is compared on NAS-Bench-201, the slowest first."""
    bf16 = torch.bfloat16
    steps: dict[str, Step] = {}
    if peer_path is not None:
        steps["AutoDL-Projects, float32"] = peer(peer_path, size).step
    steps["module per operation, float32"] = conventional_step(NB201, size)
    if on_gpu():
        steps["module per operation, bfloat16"] = conventional_step(NB201, size, bf16)
    steps["float32"] = fast_step(NB201, size)
    steps["bfloat16"] = fast_step(NB201, size, bf16)
    if on_gpu():
        steps["float32, captured"] = fast_step(NB201, size, captured=True)
        steps["bfloat16, captured"] = fast_step(NB201, size, bf16, captured=True)
        return steps
    for live in ("weight step", "both"):
        steps[f"one live operation ({live}), float32"] = fast_step(NB201, size, live=live)
        steps[f"one live operation ({live}), bfloat16"] = fast_step(NB201, size, bf16, live)
    return steps


def growth(rounds: int) -> dict[str, object]:
    """What a cell adds to a step, and seconds of a float32 step as the supernet grows."""
    makers: dict[str, Callable[[Size], Step]] = {
        "module per operation": lambda s: conventional_step(NB201, s),
        "fast": lambda s: fast_step(NB201, s),
    }
    print(f"\n{'Per cell and bilevel step':40s}{'operators':>10s}{'maps read':>10s}{'written':>9s}")
    counted = {}
    for name, make in makers.items():
        found = per_cell(make)
        counted[name] = asdict(found)
        print(f"{name:40s}{found.operators:10.0f}{found.read:10.0f}{found.written:9.0f}")
    print(f"\n{'Growth, float32':40s}{'ms/step':>9s}")
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
    torch.set_default_device(arguments.device)

    size = Size(cells=5 if gpu else 1)
    rows = compare(variants(size, arguments.peer), arguments.rounds)
    print_rows(f"NAS-Bench-201, C=16, N={size.cells}, batch 64", rows)
    report: dict[str, object] = {"nb201": [asdict(row) for row in rows]}
    few = max(3, arguments.rounds // 3)
    if not gpu:
        report |= growth(few)
    if not arguments.skip_darts:
        deep, bf16 = Size(cells=8), torch.bfloat16
        steps = {
            "module per operation, float32": conventional_step(DARTS, deep),
            "float32": fast_step(DARTS, deep),
            "bfloat16": fast_step(DARTS, deep, bf16),
        }
        if gpu:
            steps["float32, captured"] = fast_step(DARTS, deep, captured=True)
            steps["bfloat16, captured"] = fast_step(DARTS, deep, bf16, captured=True)
        rows = compare(steps, few)
        print_rows("DARTS space, C=16, 8 cells, batch 64", rows)
        report["darts"] = [asdict(row) for row in rows]

    report["machine"] = {**machine(torch.device(arguments.device)), "rounds": arguments.rounds}
    write_json(out, report)
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
