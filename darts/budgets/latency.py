"""How long each operation of a space takes on a device, in one file."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from darts.budgets.costs import Costs, Sizes, Visit, hollow, tabulate, visits
from darts.config import as_dict
from darts.errors import UserError, on_one_line
from darts.files import write_text
from darts.networks.genotype import Genotype
from darts.spaces import Space
from snsoftmax import __version__

REST = "everything else"
"""The entry of the network without its operations."""


WARM_UP = 3
"""Rounds before those that count."""


@dataclass
class LatencyTable:
    """Measured times of the operations of a space at every shape, in milliseconds a picture."""

    space: str
    sizes: dict[str, Any]
    """Of the network, as `Sizes` has them."""
    where: dict[str, Any]
    """Device, threads, versions."""
    batch: int
    """Pictures at a time."""
    times: dict[str, float]
    """Operation at a shape → median milliseconds a picture."""
    factor: float = 1.0
    """Of the sum: in a network a map has left the cache by the time that it is read."""
    check: list[dict[str, Any]] = field(default_factory=list)
    """Whole networks, other ones than the factor is from: genotype, predicted and measured
    milliseconds a picture."""

    @property
    def error(self) -> float:
        """Median over the whole networks of |predicted / measured - 1|, in percent."""
        errors = [abs(100 * (c["predicted"] / c["measured"] - 1)) for c in self.check]
        return float(statistics.median(errors))

    def costs(self, space: Space, sizes: Sizes) -> Costs:
        """Latencies of every architecture of `space` in the network of `sizes`.

        Raises:
            UserError: the table is of another network or lacks an operation.
        """
        asked = as_dict(sizes)
        # The classifier of more or fewer classes takes the same time here.
        differing = [k for k, v in asked.items() if k != "classes" and v != self.sizes[k]]
        if differing:
            of = ", ".join(f"{name}={self.sizes[name]}" for name in differing)
            here = ", ".join(f"{name}={asked[name]}" for name in differing)
            raise UserError(
                f"budget.table was measured for {of}, and the network has {here}; measure it: "
                f"python -m darts latency --space {space.name} --channels {sizes.channels} "
                f"--cells {sizes.cells} --shape {'x'.join(map(str, sizes.shape))} --out FILE."
            )
        return tabulate(space, sizes, self.factor * self.times[REST], self._price)

    def _price(self, name: str, visit: Visit) -> float:
        try:
            return self.factor * self.times[_key(name, visit)]
        except KeyError:
            raise UserError(
                f"budget.table has no entry {_key(name, visit)!r}: it was measured on space "
                f"{self.space}."
            ) from None

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        content = {**asdict(self), "error_percent": self.error}
        write_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a file that `save` wrote.

        Raises:
            UserError: it is none.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("error_percent")
            content["sizes"]["shape"] = list(content["sizes"]["shape"])
            return cls(**content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"budget.table={os.fspath(path)!r} is no table of `python -m darts latency`: "
                f"{on_one_line(error)}."
            ) from error


def _key(name: str, visit: Visit) -> str:
    key = f"{name} {'x'.join(map(str, visit.shape))} stride {visit.stride}"
    return key if visit.outputs == visit.shape[0] else f"{key} to {visit.outputs}"


def measure(
    space: Space,
    sizes: Sizes,
    device: str,
    *,
    batch: int = 1,
    rounds: int = 30,
    networks: int = 8,
    seed: int = 0,
) -> LatencyTable:
    """Time every operation at every shape, and some whole networks to check the sum by.

    All are timed in turn in each round, in an order drawn anew, so that what disturbs the machine
    for a while disturbs all alike; a time is the median over the rounds. Networks run in evaluation
    mode, one module after another, as PyTorch runs them.

    Args:
        space: with the operations.
        sizes: of the network.
        device: "cpu" or "cuda".
        batch: pictures at a time.
        rounds: times that each is run.
        networks: whole networks, drawn uniformly, that the factor is from, and as many others that
            it is checked on.
        seed: of the draw.
    """
    source = torch.Generator().manual_seed(seed)

    def drawn() -> Genotype:
        return space.derive(
            {name: torch.rand(cell.shape, generator=source) for name, cell in space.cells.items()}
        )

    genotypes = [drawn() for _ in range(2 * networks)]
    pieces: dict[str, Callable[[], float]] = {
        REST: runner(hollow(space, drawn(), sizes), sizes.shape, batch, device)
    }
    for visit in visits(space, sizes):
        for name in space.cells[visit.cell].candidates[visit.edge]:
            if _key(name, visit) not in pieces:
                pieces[_key(name, visit)] = runner(
                    visit.operation(space, name), visit.shape, batch, device
                )
    whole = {
        str(genotype): runner(sizes.build(genotype), sizes.shape, batch, device)
        for genotype in genotypes
    }
    nothing = runner(nn.Identity(), sizes.shape, batch, device)
    seconds = medians({**pieces, **whole, "": nothing}, rounds, seed)
    # The call and the clock, which a network has once and not for every operation.
    times = {name: 1e3 * max(seconds[name] - seconds[""], 0.0) / batch for name in pieces}
    table = LatencyTable(space.name, as_dict(sizes), described(device), batch, times)
    sums = table.costs(space, sizes)
    known: list[dict[str, Any]] = [
        {
            "genotype": str(genotype),
            "predicted": sums.of(space, genotype),
            "measured": 1e3 * seconds[str(genotype)] / batch,
        }
        for genotype in genotypes
    ]
    table.factor = statistics.median(k["measured"] / k["predicted"] for k in known[:networks])
    table.check = [k | {"predicted": table.factor * k["predicted"]} for k in known[networks:]]
    return table


def runner(net: nn.Module, shape: tuple[int, ...], batch: int, device: str) -> Callable[[], float]:
    """A function that runs `net` on maps of `shape` once more and gives the seconds it took."""
    maps = torch.randn(batch, *shape, device=device)
    net = net.to(device).eval()
    # A kernel's end is not seen from the host, so several calls share one wait.
    calls = 10 if maps.is_cuda else 1

    @torch.inference_mode()
    def run() -> float:
        net(maps)  # what ran before has the caches
        if maps.is_cuda:
            torch.cuda.synchronize(maps.device)
        start = time.perf_counter()
        for _ in range(calls):
            net(maps)
        if maps.is_cuda:
            torch.cuda.synchronize(maps.device)
        return (time.perf_counter() - start) / calls

    return run


def medians(
    runners: Mapping[str, Callable[[], float]], rounds: int, seed: int = 0
) -> dict[str, float]:
    """Median seconds of each, run in turn in every round, in an order drawn anew."""
    source = random.Random(seed)
    names = list(runners)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-WARM_UP, rounds):
        source.shuffle(names)
        for name in names:
            seconds = runners[name]()
            if round_ >= 0:
                taken[name].append(seconds)
    return {name: statistics.median(values) for name, values in taken.items()}


def described(device: str) -> dict[str, Any]:
    """What a latency depends on beside the network."""
    where = torch.device(device)
    cuda = where.type == "cuda"
    return {
        "device": where.type,
        "name": torch.cuda.get_device_name(where) if cuda else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "snsoftmax": __version__,
    }


def processor() -> str:
    """The CPU's name as Linux has it; elsewhere the platform's word for it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
