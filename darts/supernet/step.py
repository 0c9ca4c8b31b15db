"""One bilevel step (Eq. 1): the gradient of ω on training data, of α on validation data.

Everything here is a pure function of its arguments up to batch-norm running statistics; the caller
owns the optimisers. Nothing reads a value back from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.devices import parallel
from darts.supernet import Live, Supernet, counting, live_operations
from darts.supernet.branches import batched
from darts.supernet.shadow import shadows

Batch = tuple[Tensor, Tensor]
"""Images, [batch, 3, height, width], and labels, [batch] or [batch, outputs]."""
Weights = Mapping[str, Tensor]
MakeWeights = Callable[[], Weights]
"""Computes β from α, differentiably."""
FINITE_DIFFERENCE = 0.01
"""Norm of DARTS's finite-difference displacement of ω (Liu et al., 2019, Eq. 8)."""


class Outcome(NamedTuple):
    """Loss (0-d) and logits ([batch, classes], float32), detached."""

    loss: Tensor
    logits: Tensor


def cross_entropy(
    net: nn.Module,
    batch: Batch,
    weights: Weights,
    live: Mapping[str, Live | Tensor] | None = None,
    precision: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss and logits of the supernet ``net`` on ``batch``, still differentiable.

    ``precision``: torch.bfloat16 runs the network under autocast; statistics, β and the loss stay
    float32. None keeps the dtype of the parameters. In a data-parallel run the loss, and the
    gradient of β, is that of the whole batch; the logits and the gradient of ω are the process's.
    """
    images, labels = batch
    weights = shared(weights)
    with nullcontext() if precision is None else torch.autocast(images.device.type, precision):
        if precision is not None and batched(images):
            # Casting all weights at once is one launch, one by one it is hundreds; on the CPU
            # kernels of our own read them as they are.
            cast = shadows(net, precision)
            logits = torch.func.functional_call(net, cast, (images, weights, live))
        else:
            logits = net(images, weights, live)
    logits = logits.to(next(net.parameters()).dtype)
    return parallel.average(criterion(net)(logits, labels)), logits


def criterion(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that ``net`` was given, of logits and labels, or the cross-entropy."""
    found: Callable[[Tensor, Tensor], Tensor] = getattr(net, "criterion", F.cross_entropy)
    return found


def shared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`darts.parallel.shared` for named tensors."""
    return dict(zip(tensors, parallel.shared(list(tensors.values())), strict=True))


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Inside, no parameter of ``net`` asks for a gradient and nothing is kept for one."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


@contextmanager
def displaced(net: Supernet, cell: str, by: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the cells of type ``cell`` mix with β plus one of ``by`` each, in their order.

    ``by``: as many tensors [edges, operations] as there are such cells; differentiable.
    """

    def add(tensor: Tensor) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            maps, weights, *rest = arguments
            return maps, {**weights, cell: weights[cell] + tensor}, *rest

        return hook

    cells = [c for c in net.search_cells().values() if c.name == cell]
    pairs = list(zip(cells, by, strict=True))
    handles = [c.register_forward_pre_hook(add(tensor)) for c, tensor in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def weight_step(
    net: nn.Module,
    batch: Batch,
    weights: Weights,
    *,
    alphas: Sequence[Tensor] = (),
    zero_skip: bool = True,
    precision: torch.dtype | None = None,
) -> Outcome:
    """Write ∂loss/∂ω of the whole batch into ``.grad`` of every parameter.

    ``alphas``: leaves of ``weights`` whose gradient is added to what their ``.grad`` holds, as
    ``loss.backward()`` would. Every candidate is computed then: divided by a small temperature, the
    gradient of a β that is lost in rounding is not.

    ``zero_skip``: candidates whose β is lost in rounding beside the largest of their edge (at most
    a quarter of the ``eps`` of ``precision`` times it: 2^-25 in float32, 2^-9 in bfloat16) are not
    computed. Their gradient is zero, not None, so that momentum and weight decay go on as without.
    Running batch-norm statistics of what was left out are not updated. The set is read from β,
    which costs nothing on the CPU. On other devices that would wait for the device: there the
    convolutions of a network with ``own_convolutions`` are left out by kernels that read the set,
    and nothing else is.
    """
    if not alphas:
        weights = {name: w.detach() for name, w in weights.items()}
    live: Mapping[str, Live | Tensor] | None = None
    if zero_skip and not alphas:
        dtype = precision or next(iter(weights.values())).dtype
        negligible = torch.finfo(dtype).eps / 4
        if all(w.device.type == "cpu" for w in weights.values()):
            live = live_operations(weights, negligible)
        elif isinstance(net, Supernet) and net.own_convolutions and parallel.world() == 1:
            weights, live = without_negligible(weights, negligible)
    loss, logits = cross_entropy(net, batch, weights, live, precision)
    parameters = [p for p in net.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        loss, [*parameters, *alphas], allow_unused=True, materialize_grads=True
    )
    of_parameters, of_alphas = gradients[: len(parameters)], gradients[len(parameters) :]
    parallel.average_(of_parameters)
    for p, g in zip(parameters, of_parameters, strict=True):
        p.grad = laid_out_as(p, g)
    for alpha, g in zip(alphas, of_alphas, strict=True):
        alpha.grad = g if alpha.grad is None else alpha.grad.add_(g)
    return Outcome(loss.detach(), logits.detach())


def laid_out_as(p: Tensor, g: Tensor) -> Tensor:
    """The gradient ``g`` in the strides of its parameter ``p``.

    On the CPU fused SGD takes its elements in the parameter's order, whatever its strides; that of
    a branch with operations left out is contiguous.
    """
    if g.stride() == p.stride():
        return g
    strides = zip(p.shape, g.stride(), p.stride(), strict=True)
    if all(size == 1 or ours == theirs for size, ours, theirs in strides):
        return g.as_strided(p.shape, p.stride())  # the same order, said otherwise
    return torch.empty_like(p).copy_(g)


def without_negligible(
    weights: Weights, negligible: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``weights`` with zeros where `counting` says that they do not count, and what it says."""
    live = counting(weights, negligible)
    return {name: w.masked_fill(~live[name], 0) for name, w in weights.items()}, live


def _functional(net: nn.Module, parameters: Mapping[str, Tensor]) -> Callable[..., Tensor]:
    """``net`` with other parameters; running statistics are updated in a copy."""
    buffers = {name: b.detach().clone() for name, b in net.named_buffers()}

    def call(images: Tensor, weights: Weights) -> Tensor:
        tensors = {**shared(parameters), **buffers}
        out: Tensor = torch.func.functional_call(net, tensors, (images, shared(weights)))
        return out

    return call


def _loss(
    net: nn.Module, parameters: Mapping[str, Tensor], batch: Batch, weights: Weights
) -> Tensor:
    logits = _functional(net, parameters)(batch[0], weights)
    return parallel.average(criterion(net)(logits, batch[1]))


def sgd_direction(
    net: nn.Module, optimizer: torch.optim.SGD, gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What DARTS unrolls: momentum·buffer + gradient + weight decay·ω, per parameter name."""
    group = {p: g for g in optimizer.param_groups for p in g["params"]}
    directions = {}
    for name, p in net.named_parameters():
        settings = group[p]
        direction = gradients[name] + settings["weight_decay"] * p
        buffer = optimizer.state.get(p, {}).get("momentum_buffer")
        if buffer is not None:
            direction = direction + settings["momentum"] * buffer
        directions[name] = direction
    return directions


def unrolled_arch_step(
    net: nn.Module,
    train: Batch,
    validation: Batch,
    make_weights: MakeWeights,
    alphas: Sequence[Tensor],
    optimizer: torch.optim.SGD,
    *,
    exact: bool = False,
) -> Outcome:
    """Second order: write ∂L_val(ω − lr·∂L_train(ω, α)/∂ω, α)/∂α into ``.grad`` of ``alphas``.

    The unrolled step is that of ``optimizer`` (momentum, weight decay, current rate; Liu et al.
    2019, Eq. 7). By default the product with the mixed Hessian is DARTS's finite difference
    (Eq. 8); ``exact`` differentiates through the step. ω and running statistics are unchanged.
    """
    rate = optimizer.param_groups[0]["lr"]
    parameters = dict(net.named_parameters())
    names = list(parameters)
    weights = make_weights()
    train_loss = _loss(net, parameters, train, weights if exact else _detached(weights))
    gradients = torch.autograd.grad(
        train_loss,
        list(parameters.values()),
        create_graph=exact,
        allow_unused=True,
        materialize_grads=True,
    )
    direction = sgd_direction(net, optimizer, dict(zip(names, gradients, strict=True)))
    stepped = {name: p - rate * direction[name] for name, p in parameters.items()}
    if not exact:
        stepped = {name: p.detach().requires_grad_() for name, p in stepped.items()}
    logits = _functional(net, stepped)(validation[0], weights)
    loss = parallel.average(criterion(net)(logits, validation[1]))
    if exact:
        total = list(torch.autograd.grad(loss, alphas))
    else:
        both = torch.autograd.grad(
            loss, [*alphas, *stepped.values()], allow_unused=True, materialize_grads=True
        )
        vector = dict(zip(names, both[len(alphas) :], strict=True))
        product = mixed_hessian_product(net, train, make_weights, alphas, vector)
        total = [g - rate * h for g, h in zip(both, product, strict=False)]
    for alpha, g in zip(alphas, total, strict=True):
        alpha.grad = g.detach()
    return Outcome(loss.detach(), logits.detach())


def mixed_hessian_product(
    net: nn.Module,
    batch: Batch,
    make_weights: MakeWeights,
    alphas: Sequence[Tensor],
    vector: Mapping[str, Tensor],
) -> list[Tensor]:
    """∂²L/∂α∂ω · vector by a central difference of displacement 0.01/‖vector‖ in ω."""
    norm = torch.stack([v.square().sum() for v in vector.values()]).sum().sqrt()
    step = FINITE_DIFFERENCE / norm
    sides = []
    for signed in (step, -step):
        moved = {n: (p + signed * vector[n]).detach() for n, p in net.named_parameters()}
        sides.append(torch.autograd.grad(_loss(net, moved, batch, make_weights()), alphas))
    return [(plus - minus) / (2 * step) for plus, minus in zip(*sides, strict=True)]


def _detached(weights: Weights) -> Weights:
    return {name: w.detach() for name, w in weights.items()}
