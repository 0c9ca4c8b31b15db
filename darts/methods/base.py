"""What a search method is: DARTS's own behaviour at four seams, each of which a method may replace.

| seam | decides | hooks, in the order in which they are called |
| --- | --- | --- |
| weights | α → β, sampling, edge weights | normalize, probabilities, weights, training_weights |
| | what ω learns beside the loss, and how it moves | weight_gradients, weight_update |
| arch step | how α moves | arch_objective, arch_gradients, arch_update |
| supernet | what is executed | supernet_options, prepare |
| epoch | schedules, decisions, the selection | begin_epoch, end_epoch, scores, select |

A method is a class in a file of this package, decorated with `register`. Hooks are cooperative: one
that adds to another calls `super()`, so that methods combine by multiple inheritance. All draws
come from `self.generator`; what changes during a search is named in `kept` and thus saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from darts.config import ConfigError, SearchConfig, build, nearest
from darts.devices.capture import captures
from darts.methods.kept import kept_values, restore_kept
from darts.plugins import imported
from darts.supernet.step import Outcome, frozen
from snsoftmax import sn_softmax

if TYPE_CHECKING:
    from darts.data import Batch
    from darts.networks.genotype import Genotype
    from darts.spaces import Space
    from darts.supernet import Supernet

Weights = dict[str, Tensor]
"""β: cell type → [edges, operations], float32."""


class Loss(Protocol):
    """Cross-entropy of the supernet on one batch as a function of β."""

    outcome: Outcome | None
    """The first evaluation, or the last one by `measure`, for the log."""

    def __call__(self, weights: Weights, *, skip: bool = False) -> Tensor:
        """The loss, differentiable in β and ω.

        `skip` leaves out operations whose β is exactly 0: the same loss and gradient of ω, and a
        gradient of 0 for those entries of β.
        """
        ...

    def measure(self, weights: Weights) -> Outcome:
        """Loss and logits without a gradient; operations whose β is 0 are left out."""
        ...


@dataclass(frozen=True)
class Step:
    """What one step of the bilevel loop has at hand."""

    net: Supernet
    weight_batch: Batch
    arch_batch: Batch
    weight_loss: Loss
    """Loss on `weight_batch`; differentiable in β and in ω."""
    arch_loss: Loss
    """Loss on `arch_batch`; differentiable in β."""
    optimizer: torch.optim.SGD
    """SGD of ω."""


class Trainer(Protocol):
    """What the search offers to decisions between epochs."""

    net: Supernet

    def evaluate(
        self, weights: Weights, *, images: int | None = None, running_statistics: bool = False
    ) -> tuple[float, float]:
        """Mean loss and accuracy in percent of the supernet with β = weights on the arch half.

        `images` takes only so many, the first ones, in whole batches. Images are not augmented;
        batch statistics normalise, or the running ones if asked for, which do not change.
        """
        ...

    def allows(self, genotype: Genotype) -> bool:
        """Whether an architecture is within the search's budget; all are where there is none."""
        ...

    def validation_loss(self, weights: Weights) -> Tensor:
        """Loss of the supernet on one fixed, unaugmented batch of the arch half."""
        ...


class Method:
    """First-order DARTS with ordinary softmax, from which every seam starts."""

    name: ClassVar[str]
    """Name on the command line."""
    summary: ClassVar[str]
    """One line for `python -m darts methods`."""
    single_level: ClassVar[bool] = False
    """Whether ω and α learn from the same batches of all training images (no split)."""
    needs_cells: ClassVar[bool] = False
    """Whether it is for cells with operations on their edges alone."""
    settles_on_one: ClassVar[bool] = False
    """Whether it decides for one candidate of an edge, and no space may keep several."""
    capturable: ClassVar[bool] = True
    """Whether all steps of an epoch run the same kernels with the same numbers given by the host,
    and read nothing back: then they are one CUDA graph. The learning rate of ω and the temperature
    may change, which lie on the device."""
    steady: ClassVar[bool] = False
    """Whether one recorded step serves all epochs until `switches` change: every number that
    changes between epochs lies in a tensor that keeps its place. Not inherited, since a subclass
    may add what does not; False records anew in each epoch, which is always right."""
    kept: ClassVar[tuple[str, ...]] = ("epoch", "finished", "temperature")
    """Attributes that a checkpoint stores, besides α, its optimiser and the generator."""

    @dataclass(frozen=True)
    class Options:
        """The method's own settings."""

    options: Options
    pull: Callable[[Weights, list[Tensor], list[Tensor]], list[Tensor]] | None = None
    """What a search under a budget makes of every arch step's gradients, given `probabilities()`,
    `parameters()` and the gradients."""

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """Published settings that differ from the defaults, as {"group.name": value}."""
        return {"recipe": "autodl"}

    def __init__(self, space: Space, config: SearchConfig) -> None:
        self.space = space
        self.config = config
        self.options = build(type(self).Options, config.options, "options")
        self.device = torch.device(config.device)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.temperature = torch.ones((), device=self.device)
        self.epoch = 0
        self.finished = False
        self.logits = self.initial_logits()
        self.optimizer = self.make_optimizer()
        edges = sum(len(a) for a in self.logits.values())
        self.norm_sums = torch.zeros(edges + 1, device=self.device)
        """Each edge's sum of gradient norms, and their number; on the device, see `capturable`."""

    @property
    def captured(self) -> bool:
        """Whether the method's steps are CUDA graphs here."""
        return self.capturable and captures(self.device)

    def switches(self) -> tuple[Hashable, ...]:
        """What the host decides on anew in an epoch, of all that a step does."""
        return self.alpha_moves, self.optimizer

    def recorded_for(self) -> Hashable:
        """A step that was recorded for another value of it must be recorded anew."""
        return self.switches() if vars(type(self)).get("steady") else self.epoch

    # ------------------------------------------------------------------ weights

    def initial_logits(self) -> Weights:
        """α before the search: N(0, initial_scale²), a leaf [edges, operations] per cell type."""
        # Drawn on the CPU, so that one seed is one start on every device.
        source = torch.Generator().manual_seed(self.config.seed)
        scale = self.config.arch.initial_scale
        return {
            name: (scale * torch.randn(cell.shape, generator=source))
            .to(self.device)
            .requires_grad_()
            for name, cell in self.space.cells.items()
        }

    def normalize(self, cell: str, logits: Tensor) -> Tensor:
        """β of one cell type from its α: softmax(α/t) over each edge's operations (Eq. 3)."""
        return sn_softmax(logits, self.temperature, scale=None)

    def probabilities(self) -> Weights:
        """Each edge's distribution over its operations, without sampling; differentiable in α."""
        return {cell: self.normalize(cell, logits) for cell, logits in self.logits.items()}

    def weights(self) -> Weights:
        """What the supernet mixes with; differentiable in α, drawn anew at each call if sampled."""
        return self.probabilities()

    def training_weights(self, step: Step) -> Weights:
        """What the weight step mixes with; differentiable where α is `clipped_with_weights`."""
        with torch.no_grad():
            return self.weights()

    def clipped_with_weights(self) -> list[Tensor]:
        """Those of `parameters()` whose gradient counts in the norm that ω's is clipped by.

        It is the last arch step's, which nobody has cleared, plus the weight loss's.
        """
        return []

    def weight_gradients(self, step: Step) -> None:
        """Change the weight loss's gradient of ω, which lies in `.grad` and is not yet clipped."""

    def weight_update(self, step: Step) -> None:
        """Move ω along its gradient, which has been clipped."""
        step.optimizer.step()

    # ---------------------------------------------------------------- arch step

    def parameters(self) -> list[Tensor]:
        """Every tensor that the arch step moves."""
        return list(self.logits.values())

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Adam with the configuration's settings."""
        arch = self.config.arch
        return torch.optim.Adam(
            self.parameters(),
            lr=arch.learning_rate,
            betas=(arch.beta1, arch.beta2),
            weight_decay=arch.weight_decay,
            fused=True,
            capturable=self.captured,
        )

    def arch_objective(self, loss: Loss) -> Tensor:
        """What the arch step lowers: the loss on the arch batch, plus a method's penalty."""
        return loss(self.weights())

    def arch_gradients(self, step: Step) -> list[Tensor]:
        """Gradient of the objective, one tensor for each of `parameters()`."""
        with frozen(step.net):
            objective = self.arch_objective(step.arch_loss)
            return list(
                torch.autograd.grad(
                    objective, self.parameters(), allow_unused=True, materialize_grads=True
                )
            )

    def arch_update(self, gradients: list[Tensor]) -> None:
        """Move α along `gradients`, which have been clipped already."""
        for parameter, gradient in zip(self.parameters(), gradients, strict=True):
            # In place: a recorded weight step reads it where it is (`clipped_with_weights`).
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.copy_(gradient)
        self.optimizer.step()

    def arch_step(self, step: Step) -> None:
        """One move of α: gradients, clipping by global norm, update."""
        gradients = self.arch_gradients(step)
        if self.pull:
            gradients = self.pull(self.probabilities(), self.parameters(), gradients)
        norms = [g.norm(dim=-1) for g in gradients[: len(self.logits)]]
        self.norm_sums += torch.cat([*norms, norms[0].new_ones(1)])
        if self.config.arch.clip:
            norm = torch.nn.utils.get_total_norm(gradients)
            factor = (self.config.arch.clip / (norm + 1e-6)).clamp(max=1.0)
            gradients = [gradient * factor for gradient in gradients]
        self.arch_update(gradients)

    # ----------------------------------------------------------------- supernet

    def supernet_options(self) -> dict[str, Any]:
        """Arguments for `build_supernet` beyond the configuration's."""
        return {}

    def prepare(self, net: Supernet) -> None:
        """Adjust the supernet at the start of an epoch."""

    # -------------------------------------------------------------------- epoch

    @property
    def epochs(self) -> int:
        """Epochs of the whole search, decisions after the training included."""
        return self.config.epochs

    def begin_epoch(self, epoch: int) -> None:
        """Set what the schedules say for `epoch` (from 0)."""
        self.epoch = epoch

    def end_epoch(self, trainer: Trainer) -> None:
        """Decide something after an epoch; `self.finished = True` ends the search."""

    def learning_rate(self, epoch: float) -> float:
        """Learning rate of ω in `epoch` (from 0): a cosine over the configured epochs.

        It is the same in all steps of an epoch, as in the released loops, AutoDL-Projects' too.
        """
        w = self.config.weights
        done = min(epoch / self.config.epochs, 1.0)
        swing = (1 + math.cos(math.pi * done)) / 2
        return w.final_learning_rate + (w.learning_rate - w.final_learning_rate) * swing

    @property
    def alpha_moves(self) -> bool:
        """Whether this epoch has arch steps."""
        return self.epoch >= self.config.arch.warmup

    def scores(self) -> Weights:
        """What the strongest operation (and edge) is selected by (Eq. 2)."""
        with torch.no_grad():
            return self.probabilities()

    def discretised(self) -> Weights | None:
        """β that the supernet is tested with after each epoch, by running statistics; none here."""
        return None

    def select(self, trainer: Trainer) -> Genotype:
        """The architecture found, after the last epoch."""
        return self.space.derive(self.scores())

    # -------------------------------------------------------------------- state

    @torch.no_grad()
    def entropies(self) -> Weights:
        """H(β) of every edge in nats, [edges] per cell type (the sum's terms in Eq. 13)."""
        return {cell: entropy(p) for cell, p in self.probabilities().items()}

    def gradient_norms(self, norm_sums: Tensor) -> dict[str, list[float]]:
        """Mean L2 norm of the objective's α-gradient for each edge since the last call.

        Args:
            norm_sums: the attribute of that name, on the CPU.
        """
        count = float(norm_sums[-1])
        if not count:
            return {}
        self.norm_sums.zero_()
        sizes = [len(a) for a in self.logits.values()]
        mean = torch.split(norm_sums[:-1] / count, sizes)
        return {cell: norms.tolist() for cell, norms in zip(self.logits, mean, strict=True)}

    def set_temperature(self, value: float) -> None:
        """Change t in place, so that a captured graph sees it."""
        self.temperature.fill_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed search needs."""
        return {
            "parameters": [p.detach().clone() for p in self.parameters()],
            "gradients": [
                p.grad.clone() for p in self.clipped_with_weights() if p.grad is not None
            ],
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "gradient_norms": self.norm_sums.clone(),
            "kept": kept_values(self),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`'s result."""
        with torch.no_grad():
            for parameter, saved in zip(self.parameters(), state["parameters"], strict=True):
                parameter.copy_(saved)
        for parameter, saved in zip(self.clipped_with_weights(), state["gradients"], strict=False):
            parameter.grad = saved.to(self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.norm_sums.copy_(state["gradient_norms"])
        restore_kept(self, state["kept"], self.device)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each row in nats; |rows| are normalised first, 0·log 0 = 0, a zero row has 0."""
    p = probabilities.abs()
    p = p / p.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    return -torch.xlogy(p, p).sum(-1)


def one_hot(indices: Tensor, like: Tensor) -> Tensor:
    """Rows that are 1 at `indices` and exactly 0 elsewhere, in the shape and dtype of `like`."""
    return torch.zeros_like(like).scatter_(-1, indices.unsqueeze(-1), 1.0)


METHODS: dict[str, type[Method]] = {}
"""Every registered method by name."""

M = TypeVar("M", bound=type[Method])


def register(name: str, summary: str) -> Callable[[M], M]:
    """Enter a method into the registry under its command-line name."""

    def enter(method: M) -> M:
        taken = METHODS.get(name)
        # The same class again, as when a notebook's cell is run twice, replaces itself.
        if taken and _place(taken) != _place(method):
            raise ValueError(f"method name {name!r} is taken by {taken.__module__}")
        method.name, method.summary = name, summary
        METHODS[name] = method
        return method

    return enter


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def get_method(name: str | type[Method]) -> type[Method]:
    """The method class called `name`, or `MODULE:NAME` for one that MODULE registers.

    A registered class is itself.

    Raises:
        UserError: there is no such method (the nearest is named) or no such module.
    """
    own = imported(name if isinstance(name, str) else getattr(name, "name", repr(name)), "method")
    if own not in METHODS:
        raise ConfigError(f"method {own!r} is unknown{nearest(own, METHODS)}")
    return METHODS[own]
