"""The defining property of each method."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from darts.config import ConfigError
from darts.hessian import largest_eigenvalue
from darts.methods import METHODS, get_method, register
from darts.methods.base import Method, entropy, one_hot
from darts.methods.fixing import OPEN, REMOVED
from darts.methods.sdarts import project
from darts.methods.sparse_nas import sparse_group_proximal
from darts.recipes import configure
from darts.spaces import get_space
from darts.supernet import build_supernet
from darts.supernet.widen import growth, widen

Pair = tuple[Tensor, Tensor]


def make(name: str, *, space: str = "nb201", **overrides: Any) -> Any:
    return get_method(name)(get_space(space), configure(method=name, space=space, **overrides))


def set_logits(method: Any, value: Tensor, cell: str = "cell") -> None:
    with torch.no_grad():
        method.logits[cell].copy_(value)


def ranked(edges: int = 6, operations: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(edges, operations, generator=generator)


class LinearLoss:
    """A loss that is linear in β, so that its gradient in β is known."""

    def __init__(self, coefficients: Tensor) -> None:
        self.coefficients = coefficients
        self.outcome = None
        self.skipped = False

    def __call__(self, weights: Any, *, skip: bool = False) -> Tensor:
        self.skipped = skip
        value: Tensor = (weights["cell"] * self.coefficients).sum()
        return value


# --------------------------------------------------------------------------- base


def test_darts_mixes_with_softmax_and_moves_alpha_by_adam() -> None:
    method = make("darts-v1")
    c = ranked()
    a = method.logits["cell"].detach().clone().requires_grad_()
    expected = torch.softmax(a, -1)
    torch.testing.assert_close(method.weights()["cell"], expected)
    reference = torch.optim.Adam([a], lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    a.grad = torch.autograd.grad((expected * c).sum(), a)[0]
    reference.step()
    step = SimpleNamespace(net=torch.nn.Linear(1, 1), arch_loss=LinearLoss(c))
    method.arch_step(step)
    torch.testing.assert_close(method.logits["cell"], a)


def test_entropy_is_that_of_normalised_rows() -> None:
    assert entropy(torch.tensor([[2.0, 2.0]])) == pytest.approx(math.log(2))
    assert entropy(torch.tensor([[0.0, 3.0]])) == 0
    assert entropy(torch.tensor([[0.0, 0.0]])) == 0


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'edd' is taken by"):
        register("edd", "another")(type("Other", (Method,), {}))


def test_methods_are_short() -> None:
    """At most 25 lines of a method's own logic a file, imports, docstrings and settings aside."""
    import ast
    import inspect

    def statements(node: ast.AST) -> int:
        return sum(
            isinstance(child, ast.stmt)
            and not isinstance(child, (ast.FunctionDef, ast.ClassDef))
            and not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))
            for child in ast.walk(node)
        )

    for method in METHODS.values():
        tree = ast.parse(inspect.getsource(method))
        hooks = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name not in ("published", "__init__")
        ]
        assert sum(statements(node) for node in hooks) <= 25, method.name


# ------------------------------------------------------------------- sampling: GDAS, DrNAS


def test_gdas_is_hard_forward_and_straight_through_backward() -> None:
    method = make("gdas")
    method.begin_epoch(100)
    set_logits(method, ranked())
    state = method.generator.get_state()
    beta = method.weights()["cell"]
    method.generator.set_state(state)
    noise = -torch.empty(6, 5).exponential_(generator=method.generator).log()
    a = method.logits["cell"].detach().clone().requires_grad_()
    tau = float(method.temperature)
    assert 0.1 < tau < 10
    soft = torch.softmax((a.log_softmax(-1) + noise) / tau, -1)
    assert torch.equal(beta, one_hot(soft.argmax(-1), soft))
    c = ranked().flip(0)
    torch.testing.assert_close(
        torch.autograd.grad((beta * c).sum(), method.logits["cell"]),
        torch.autograd.grad((soft * c).sum(), a),
    )


def test_gdas_samples_follow_softmax() -> None:
    method = make("gdas")
    set_logits(method, ranked())
    with torch.no_grad():
        mean = torch.stack([method.weights()["cell"] for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, torch.softmax(ranked(), -1), atol=0.03, rtol=0)


def test_gdas_computes_one_operation_an_edge_in_both_steps() -> None:
    method = make("gdas")
    loss = LinearLoss(ranked())
    method.arch_objective(loss)
    assert loss.skipped
    assert (method.weights()["cell"] != 0).sum() == 6


def test_gdas_temperature_falls_in_equal_steps_and_ets_gdas_in_equal_exponentials() -> None:
    gdas, ets = make("gdas", epochs=5), make("ets-gdas", epochs=5)
    found = []
    for method in (gdas, ets):
        for epoch in range(5):
            method.begin_epoch(epoch)
            found.append(float(method.temperature))
    assert found[:5] == pytest.approx([10, 7.525, 5.05, 2.575, 0.1])
    assert (found[5], found[9]) == pytest.approx((10, 0.1))
    levels = [math.exp(3.99e-4 / t) for t in found[5:]]
    steps = [b - a for a, b in itertools.pairwise(levels)]
    assert steps == pytest.approx([steps[0]] * 4, rel=1e-3)


def test_drnas_gradient_is_that_of_the_expectation() -> None:
    """Pathwise gradient of E[f(β)] against finite differences of its closed form.

    For Dirichlet(c) with s = Σc: E[β_i²] = c_i(c_i + 1)/(s(s + 1)).
    """
    method = make("drnas")
    a = torch.tensor([[0.3, -0.4, 0.9]], dtype=torch.float64)
    coefficients = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)

    def expectation(logits: Tensor) -> Tensor:
        c = torch.nn.functional.elu(logits) + 1
        s = c.sum()
        return (coefficients * c * (c + 1) / (s * (s + 1))).sum()

    exact = torch.func.jacrev(expectation)(a)
    many = a.expand(200_000, 3).clone().requires_grad_()
    samples = method.sample("cell", method.concentration(many))
    (gradient,) = torch.autograd.grad((coefficients * samples.square()).sum(), many)
    error = gradient.std(0) / len(many) ** 0.5
    assert ((gradient.mean(0) - exact[0]).abs() < 5 * error).all()
    torch.testing.assert_close(samples.sum(-1), torch.ones(len(many), dtype=torch.float64))


def test_drnas_divergence_is_zero_at_the_uniform_dirichlet_only() -> None:
    method = make("drnas", options={"kl": 1.0}, arch={"initial_scale": 0.0})
    flat = LinearLoss(torch.zeros(6, 5))
    assert method.arch_objective(flat).item() == pytest.approx(0, abs=1e-5)
    set_logits(method, ranked())
    assert method.arch_objective(flat).item() > 0.1


def test_progressive_drnas_prunes_for_good_and_widens_half_way(batch: Pair) -> None:
    method = make("drnas-progressive", epochs=4)
    for epoch in range(2):
        method.begin_epoch(epoch)
    assert method.supernet_options()["partial"] == 4
    assert (method.weights()["cell"] > 0).all()
    set_logits(method, ranked())
    method.begin_epoch(2)
    assert method.supernet_options()["partial"] == 2
    best = ranked().topk(3, -1).indices
    mask = torch.zeros(6, 5).scatter(-1, best, 1.0)
    torch.testing.assert_close(method.logits["cell"].detach(), ranked() * mask)
    beta = method.weights()["cell"]
    assert torch.equal(beta > 0, mask > 0)
    torch.testing.assert_close(beta.sum(-1), torch.ones(6))
    assert torch.equal(method.scores()["cell"] > 0, mask > 0)


def test_widening_copies_channels_and_keeps_the_rest() -> None:
    space = get_space("nb201")
    old, new = (build_supernet(space, channels=8, cells=1, classes=10, partial=k) for k in (4, 2))
    before, after = old.conventional_views(), new.conventional_views()
    widen(before, after, growth(before, after, torch.Generator().manual_seed(0)))
    after = new.conventional_views()
    assert torch.equal(old.skeleton.classifier.weight, new.skeleton.classifier.weight)
    small, large = (v["skeleton.cells.0.edges.1.3.1.weight"] for v in (before, after))
    assert small.shape == (2, 2, 3, 3)
    assert torch.equal(large[:2, :2], small)
    for channel in large[:, :2]:
        assert any(torch.equal(channel, original) for original in small)


# ------------------------------------------------------------------------------- GAEA


@pytest.mark.parametrize("name", ["gaea-bilevel", "gaea-erm", "gaea-pc"])
def test_gaea_is_the_closed_form_and_stays_on_the_simplex(name: str) -> None:
    method = make(name)
    method.begin_epoch(0)
    c = ranked() * 3
    beta = torch.full((6, 5), 0.2)
    for _ in range(20):
        gradients = [c, *[torch.zeros_like(p) for p in method.parameters()[1:]]]
        method.arch_update(gradients)
        beta = (beta * torch.exp(-0.1 * c)).clamp(min=1e-5)
        beta = beta / beta.sum(-1, keepdim=True)
        torch.testing.assert_close(method.logits["cell"].detach(), beta)
    sums = method.probabilities()["cell"].sum(-1)
    torch.testing.assert_close(sums, torch.ones(6))
    assert method.logits["cell"].min() > 0


def test_gaea_gradient_is_that_of_beta() -> None:
    method = make("gaea-bilevel")
    c = ranked()
    step = SimpleNamespace(net=torch.nn.Linear(1, 1), arch_loss=LinearLoss(c))
    torch.testing.assert_close(method.arch_gradients(step)[0], c)


def test_gaea_erm_learns_from_all_images() -> None:
    assert get_method("gaea-erm").single_level
    assert not get_method("gaea-bilevel").single_level


# --------------------------------------------------------------------- EDD, PCD, tempered


def test_edd_temperatures_on_recorded_entropies_released_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop of the released NB201 script, in the mean's scale, on recorded entropies."""
    entropies = iter([1.6, 1.55, 1.3, 1.0, 0.7, 0.5, *[0.4 - 0.03 * i for i in range(10)]])
    values = []
    method = make("edd", options={"lam": 0.24}, epochs=50)

    def recorded() -> float:
        values.append(next(entropies))
        return values[-1]

    monkeypatch.setattr(method, "mean_entropy", recorded)
    found = []
    for epoch in range(50):
        method.begin_epoch(epoch)
        found.append(float(method.temperature))
    replay = iter(values)
    temperature, decay, count, interval, expected = 1.0, 0.0, 1, 5, []
    for epoch in range(50):
        if epoch == 10 or (epoch > 10 and epoch % interval == 0):
            h = next(replay)
            if epoch > 39:
                interval = 1
            decay = (0.24 if epoch <= 39 else 0.48) * h * 0.5 + 0.5 * decay
            temperature = 0.000399 / math.log(1 + decay * count)
            count += 1
        expected.append(temperature)
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(values) == 16


def test_edd_temperatures_on_recorded_entropies_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("edd", options={"schedule": "paper", "lam": 0.12}, epochs=6)
    entropies = [1.6, 1.5, 1.2, 0.8, 0.1]
    replay = iter(entropies)
    monkeypatch.setattr(method, "mean_entropy", lambda: next(replay))
    e = float(method.logits["cell"].detach().clamp(min=0).mean())
    strength, expected = 0.0, [1.0]
    for k, h in enumerate(entropies, start=1):
        strength = 0.12 * 0.5 * h + 0.5 * strength
        expected.append(e / math.log(math.exp(e) + k * strength))
    found = []
    for epoch in range(6):
        method.begin_epoch(epoch)
        found.append(float(method.temperature))
    assert found == pytest.approx(expected, rel=1e-5)


def test_edd_measures_what_each_account_says() -> None:
    a = ranked()
    code = make("edd")
    set_logits(code, a)
    code.set_temperature(0.1)
    sharp = entropy(torch.softmax(a / 0.1, -1))
    assert code.mean_entropy() == pytest.approx(float(sharp.mean()), rel=1e-5)
    summed = make("edd", options={"entropy": "sum"})
    set_logits(summed, a)
    summed.set_temperature(0.1)
    assert summed.mean_entropy() == pytest.approx(float(sharp.sum()), rel=1e-5)
    text = make("edd", options={"schedule": "paper"})
    set_logits(text, a)
    text.set_temperature(0.1)
    assert text.mean_entropy() == pytest.approx(
        float(entropy(torch.softmax(a, -1)).mean()), rel=1e-5
    )


def test_edd_on_the_darts_space_follows_the_normal_cell_in_the_code_only() -> None:
    code, text = (
        make("edd", space="s1", options={"schedule": s}) for s in ("reference-code", "paper")
    )
    assert set(code.measured()) == {"normal"}
    assert set(text.measured()) == {"normal", "reduce"}
    assert not code.smoothed("normal")
    code.begin_epoch(5)
    assert code.decay.updates == 1
    assert code.smoothed("normal")
    assert not code.smoothed("reduce")
    assert text.smoothed("reduce")


@pytest.mark.parametrize(
    ("sn", "smooth"), [("off", None), ("st=1", 1.0), ("st=0.5", 0.5), ("s=100", 100 * 0.02)]
)
def test_sn_softmax_keeps_a_gradient_where_softmax_has_none(sn: str, smooth: float | None) -> None:
    method = make("edd", options={"sn": sn})
    method.begin_epoch(10)
    method.set_temperature(0.02)
    a = ranked() * 20
    set_logits(method, a)
    beta = method.weights()["cell"]
    torch.testing.assert_close(beta, torch.softmax(a / 0.02, -1))
    c = ranked().flip(0)
    (gradient,) = torch.autograd.grad((beta * c).sum(), method.logits["cell"])
    expected = torch.zeros(6, 5)
    for t in (0.02, smooth) if smooth else (0.02,):
        p = torch.softmax(a / t, -1)
        expected += p * (c - (p * c).sum(-1, keepdim=True)) / t
    torch.testing.assert_close(gradient, expected)
    if smooth:
        assert gradient.abs().max() > 0
    else:
        assert gradient.abs().max() == 0


def test_clip_bounds_the_norm_of_the_gradient() -> None:
    method = make("edd-clip", arch={"clip": 0.5})
    seen: list[Any] = []
    method.arch_update = seen.append
    for scale in (100.0, 0.001):
        loss = LinearLoss(scale * ranked())
        method.arch_step(SimpleNamespace(net=torch.nn.Linear(1, 1), arch_loss=loss))
    assert float(seen[0][0].norm()) == pytest.approx(0.5, rel=1e-4)
    assert float(seen[1][0].norm()) < 0.01
    assert configure(method="edd-clip").arch.clip == 5.0
    assert configure(method="edd").arch.clip == 0.0


def test_pcd_and_lpcd_follow_their_lists() -> None:
    for name, low in (("pcd", 3.99e-4 / math.log(1 + 0.11 * 10)), ("lpcd", 5e-4)):
        method = make(name)
        temperatures = []
        for epoch in range(50):
            method.begin_epoch(epoch)
            temperatures.append(float(method.temperature))
        assert min(temperatures) == pytest.approx(temperatures[-1]) == pytest.approx(low, rel=1e-5)
        assert temperatures[10:20] == temperatures[20:30]


# ------------------------------------------------------------------------------ supernet


@pytest.fixture(scope="module")
def batch() -> Pair:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 10


def outputs(method: Any, batch: Pair, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    options = method.supernet_options()
    net = build_supernet(method.space, channels=8, cells=1, classes=10, **options).double()
    method.prepare(net)
    weights = {cell: beta.double() for cell, beta in method.weights().items()}
    logits: Tensor = net(batch[0].double(), weights)
    return logits


def test_darts_minus_fades_to_darts(batch: Pair) -> None:
    method = make("darts-minus", epochs=50)
    weights = []
    for epoch in range(51):
        method.begin_epoch(epoch)
        weights.append(method.auxiliary_weight())
    assert weights == pytest.approx([1 - epoch / 50 for epoch in range(51)])
    plain = make("darts-v1")
    assert torch.equal(plain.logits["cell"], method.logits["cell"])
    torch.testing.assert_close(outputs(method, batch), outputs(plain, batch))
    method.begin_epoch(0)
    assert not torch.allclose(outputs(method, batch), outputs(plain, batch))


def test_pc_darts_with_all_channels_and_even_edges_is_darts(batch: Pair) -> None:
    method, plain = make("pc-darts", options={"partial": 1}), make("darts-v1")
    with torch.no_grad():
        for cell, edges in method.edge_logits.items():
            edges.zero_()
            into = [3 if i > 2 else (2 if i else 1) for i in range(len(edges))]
            scaled = {cell: plain.weights()[cell] / torch.tensor(into)[:, None]}
    torch.testing.assert_close(method.weights()["cell"], scaled["cell"])
    method.edge_weights = lambda cell: torch.ones(6)
    torch.testing.assert_close(outputs(method, batch), outputs(plain, batch))


def test_pc_darts_edge_weights_are_a_softmax_over_each_nodes_edges() -> None:
    method = make("pc-darts", space="s1")
    with torch.no_grad():
        method.edge_logits["normal"].copy_(torch.arange(14.0) / 5)
    weights = method.edge_weights("normal")
    start = 0
    for count in (2, 3, 4, 5):
        part = torch.arange(14.0)[start : start + count] / 5
        torch.testing.assert_close(weights[start : start + count], part.softmax(0))
        start += count
    product = torch.softmax(method.logits["normal"], -1) * weights[:, None]
    torch.testing.assert_close(method.scores()["normal"], product)
    assert len(method.parameters()) == 4


def test_r_darts_raises_the_probability_of_dropping_a_path() -> None:
    method = make("r-darts-dp", epochs=11)
    net = SimpleNamespace(drop_path=None)
    found = []
    for epoch in (0, 5, 10):
        method.begin_epoch(epoch)
        method.prepare(net)
        found.append(net.drop_path)
    assert found == pytest.approx([0, 0.1, 0.2])
    assert configure(method="r-darts-l2").weights.weight_decay == pytest.approx(27e-4)


# ------------------------------------------------------------------- penalties, updates


def test_beta_decay_adds_softmax_to_the_gradient() -> None:
    """d/dα of λ·mean log Σ exp(α) is λ/edges·softmax(α)."""
    method = make("beta-darts", epochs=100)
    set_logits(method, ranked())
    method.begin_epoch(40)
    objective = method.arch_objective(LinearLoss(torch.zeros(6, 5)))
    (gradient,) = torch.autograd.grad(objective, method.logits["cell"])
    torch.testing.assert_close(gradient, 20 / 6 * torch.softmax(ranked(), -1))
    method.begin_epoch(0)
    assert method.arch_objective(LinearLoss(torch.zeros(6, 5))) == 0


def test_fair_darts_does_not_let_operations_compete() -> None:
    method = make("fair-darts")
    assert torch.equal(method.weights()["cell"], torch.full((6, 5), 0.5))
    set_logits(method, ranked())
    torch.testing.assert_close(method.weights()["cell"], ranked().sigmoid())
    objective = method.arch_objective(LinearLoss(torch.zeros(6, 5)))
    assert objective.item() == pytest.approx(
        -10 * float((ranked().sigmoid() - 0.5).square().mean())
    )


def test_sparse_group_proximal_minimises_its_objective() -> None:
    v = ranked(3, 4).double()
    lasso, group = 0.3, 0.15

    def objective(x: Tensor) -> float:
        penalty = lasso * x.abs().sum() + group * x.numel() ** 0.5 * x.norm()
        return float((x - v).square().sum() / 2 + penalty)

    found = sparse_group_proximal(v, lasso, group)
    best = objective(found)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-1, 1e-2, 1e-3):
        for _ in range(200):
            step = scale * torch.randn(v.shape, generator=generator, dtype=v.dtype)
            assert objective(found + step) > best
    assert (found == 0).any()
    assert not sparse_group_proximal(0.1 * v, lasso, group).any()


def test_sparse_nas_steps_through_the_proximal_operator() -> None:
    method = make("sparse-nas", arch={"learning_rate": 0.1}, options={"lasso": 1.0, "group": 0.5})
    c = ranked()
    a = method.logits["cell"].detach().clone().requires_grad_()
    adam = torch.optim.Adam([a], lr=0.1, betas=(0.5, 0.999))
    a.grad = c
    adam.step()
    method.arch_update([c])
    groups = torch.cat(
        [sparse_group_proximal(part, 0.1, 0.05) for part in a.detach().split([1, 2, 3])]
    )
    torch.testing.assert_close(method.logits["cell"].detach(), groups)
    assert (method.scores()["cell"] >= 0).all()


def test_gibbs_samples_its_posterior() -> None:
    """On the energy n·k·α²/2 + α²/2σ², variance T/(n·k + 1/σ²) around zero."""
    settings = {"images": 50.0, "prior": 1.0, "noise": 2.0}
    method = make("gibbs", options=settings, arch={"learning_rate": 2e-3, "initial_scale": 0.0})
    draws = []
    for n in range(6000):
        method.arch_update([0.4 * method.logits["cell"].detach()])
        if n > 500:
            draws.append(method.logits["cell"].detach().clone())
    values = torch.stack(draws)
    assert float(values.mean()) == pytest.approx(0, abs=0.02)
    assert float(values.var()) == pytest.approx(2.0 / (50 * 0.4 + 1), rel=0.1)


def test_gibbs_selects_by_the_posterior_mean() -> None:
    method = make("gibbs", epochs=4)
    betas = []
    for epoch in range(4):
        method.begin_epoch(epoch)
        set_logits(method, ranked() * epoch)
        method.end_epoch(None)
        betas.append(torch.softmax(ranked() * epoch, -1))
    torch.testing.assert_close(method.scores()["cell"], (betas[2] + betas[3]) / 2)


def test_surge_runs_every_operation_once_in_as_many_steps() -> None:
    method = make("surge")
    set_logits(method, ranked())
    step = SimpleNamespace()
    for _ in range(3):
        seen = sum(method.training_weights(step)["cell"] for _ in range(5))
        assert torch.equal(seen, torch.ones(6, 5))


def test_surge_orders_by_its_probabilities() -> None:
    method = make("surge")
    set_logits(method, 3 * ranked())
    first = torch.zeros(6, 5)
    for _ in range(2000):
        for place in range(5):
            drawn = method.training_weights(SimpleNamespace())["cell"]
            first += drawn if place == 0 else 0
    torch.testing.assert_close(first / 2000, torch.softmax(3 * ranked(), -1), atol=0.04, rtol=0)


def test_surge_penalises_identity_and_latency() -> None:
    costs = "none=0,skip_connect=0.1,nor_conv_1x1=1,nor_conv_3x3=3,avg_pool_3x3=0.5"
    method = make("surge", options={"latency": costs, "latency_weight": 0.5, "identity": 0.6})
    method.advance()
    objective = method.arch_objective(LinearLoss(torch.zeros(6, 5)))
    beta = torch.softmax(method.logits["cell"].detach(), -1)
    latency = (beta * torch.tensor([0, 0.1, 1, 3, 0.5])).sum()
    assert objective.item() == pytest.approx(
        float(0.5 * latency + 0.6 * beta[:, 1].mean()), rel=1e-5
    )
    with pytest.raises(ConfigError, match=r"options\.latency lacks"):
        make("surge", options={"latency": "none=1"})
    with pytest.raises(ConfigError, match=r"must look like name=1\.2"):
        make("surge", options={"latency": "none"})


# ------------------------------------------------------------------------------- SDARTS


def test_projection_keeps_rows_on_the_simplex() -> None:
    rows = torch.tensor([[0.5, -0.2, 0.9], [-1.0, -0.5, -2.0], [0.2, 0.3, 0.5]])
    found = project(rows)
    torch.testing.assert_close(found.sum(-1), torch.ones(3))
    assert torch.equal(found[1], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(found[2], rows[2])


def test_sdarts_radius_grows_from_003() -> None:
    method = make("sdarts-rs", epochs=50)
    radii = []
    for epoch in (0, 25, 49):
        method.begin_epoch(epoch)
        radii.append(method.radius())
    assert radii == pytest.approx([0.03, 0.165, 0.03 + 0.27 * 49 / 50])


def test_sdarts_rs_is_noise_in_the_weight_step_only() -> None:
    method = make("sdarts-rs")
    method.begin_epoch(0)
    clean = method.weights()["cell"].detach()
    noisy = method.training_weights(SimpleNamespace())["cell"]
    assert not torch.equal(clean, noisy)
    assert (clean - noisy).abs().max() < 2 * method.radius()
    assert torch.equal(method.weights()["cell"].detach(), clean)


def test_sdarts_adv_raises_the_loss_within_its_ball() -> None:
    method = make("sdarts-adv", epochs=50)
    method.begin_epoch(10)
    set_logits(method, ranked())
    clean = {"cell": torch.softmax(ranked(), -1)}
    target = torch.softmax(ranked().flip(0), -1)

    def loss(weights: Any, *, skip: bool = False) -> Any:
        return (weights["cell"] - target).square().sum()

    attacked = method.attack(clean, loss)
    noisy = [method.noisy(clean) for _ in range(50)]
    assert loss(attacked) > max(loss(weights) for weights in noisy)
    torch.testing.assert_close(attacked["cell"].sum(-1), torch.ones(6))
    assert (attacked["cell"] >= 0).all()
    # Rows are normalised after the clamp: each is a multiple of one within the ball.
    low = ((clean["cell"] - method.radius()) / attacked["cell"]).amax(-1)
    high = ((clean["cell"] + method.radius()) / attacked["cell"]).amin(-1)
    assert (low <= high * (1 + 1e-5)).all()


def test_sdarts_adv_keeps_beta_where_the_loss_cannot_rise() -> None:
    method = make("sdarts-adv")
    method.begin_epoch(0)
    clean = {"cell": torch.softmax(ranked(), -1)}

    def loss(weights: Any, *, skip: bool = False) -> Any:
        return -(weights["cell"] - clean["cell"]).square().sum()

    assert torch.equal(method.attack(clean, loss)["cell"], clean["cell"])


# -------------------------------------------------------------- decisions: PT, SGAS, ES, ...


class Judge:
    """A trainer whose accuracy is a known function of β: Σ value·β, by edge and operation."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def evaluate(self, weights: Any) -> Any:
        score = sum(float((self.values[cell] * beta).sum()) for cell, beta in weights.items())
        return -score, score


def test_pt_picks_the_operation_whose_removal_hurts_most() -> None:
    method = make("darts-pt")
    set_logits(method, torch.zeros(6, 5))
    values = ranked()
    judge = Judge({"cell": values})
    for edge in range(6):
        assert method.missed_operation(judge, "cell", edge) == int(values[edge].argmax())
    method.options = type(method.options)(criterion="loss")
    assert method.missed_operation(judge, "cell", 3) == int(values[3].argmax())


def test_pt_decides_every_edge_and_tunes_in_between() -> None:
    method = make("darts-pt", epochs=4, options={"interval": 3})
    assert method.epochs == 4 + 3 * 5
    values = ranked()
    count = []
    for epoch in range(method.epochs):
        method.begin_epoch(epoch)
        method.end_epoch(Judge({"cell": values}))
        count.append(len(method.undecided("cell")))
    assert count == [6, 6, 6, 5, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0]
    assert method.fixed["cell"] == values.argmax(-1).tolist()
    assert torch.equal(method.weights()["cell"], one_hot(values.argmax(-1), values))
    assert method.learning_rate(4.5) == pytest.approx(0.0025)
    assert not method.alpha_moves


def test_pt_keeps_the_two_edges_that_each_node_misses_most() -> None:
    method = make("darts-pt", space="s1", epochs=1, options={"interval": 1})
    generator = torch.Generator().manual_seed(1)
    values = {cell: torch.rand(14, 2, generator=generator) + 0.1 for cell in ("normal", "reduce")}
    for epoch in range(method.epochs):
        method.begin_epoch(epoch)
        method.end_epoch(Judge(values))
    for cell, table in method.space.cells.items():
        best = values[cell].max(-1).values
        assert not method.undecided(cell)
        for node in table.nodes:
            edges = table.incoming(node)
            kept = {e for e in edges if method.fixed[cell][e] != REMOVED}
            assert kept == set(sorted(edges, key=lambda e: -float(best[e]))[:2])


def test_pt_with_fixed_alpha_never_moves_it() -> None:
    method = make("darts-pt-fixed")
    assert not method.alpha_moves
    torch.testing.assert_close(method.weights()["cell"], torch.full((6, 5), 0.2))


def test_sgas_fixes_the_important_and_certain_edge_to_its_strongest_operation() -> None:
    method = make("sgas")
    logits = torch.zeros(6, 5)
    logits[4] = torch.tensor([-4.0, 0, 0, 6, 0])  # little `none`, one clear operation
    logits[2] = torch.tensor([9.0, 0, 0, 6, 0])  # as clear, but mostly `none`
    logits[1] = torch.tensor([-4.0, 1, 1, 1, 1])  # no `none`, but undecided
    set_logits(method, logits)
    method.begin_epoch(9)
    method.end_epoch(None)
    assert method.fixed["cell"] == [OPEN, OPEN, OPEN, OPEN, 3, OPEN]
    assert torch.equal(method.weights()["cell"][4], torch.tensor([0.0, 0, 0, 1, 0]))
    for epoch in (10, 13, 14):
        method.begin_epoch(epoch)
        method.end_epoch(None)
    assert len(method.undecided("cell")) == 4


def test_sgas_drops_the_rest_of_a_node_with_two_edges() -> None:
    method = make("sgas", space="s1")
    method.fixed["normal"][2] = 1
    method.fixed["normal"][4] = 0
    method.remove_surplus("normal")
    assert method.fixed["normal"][2:5] == [1, REMOVED, 0]
    assert not method.weights()["normal"][3].any()


def test_sgas_pt_takes_the_operation_that_is_missed() -> None:
    method = make("sgas-pt")
    values = ranked()
    method.begin_epoch(9)
    method.end_epoch(Judge({"cell": values}))
    (edge,) = [e for e, choice in enumerate(method.fixed["cell"]) if choice != OPEN]
    weighted = values[edge] * torch.softmax(method.logits["cell"], -1)[edge]
    assert method.fixed["cell"][edge] == int(weighted.argmax())


def test_largest_eigenvalue_is_the_dense_hessians() -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return (a.sin().sum() * b.cos().prod() + (a[:, :1] * b).tanh().square()).sum()

    dense = torch.func.hessian(lambda x: loss(x[:12].view(4, 3), x[12:]))(
        torch.cat([a.flatten(), b]).detach()
    )
    exact = float(torch.linalg.eigvalsh(dense)[-1])
    assert largest_eigenvalue(lambda: loss(a, b), [a, b]) == pytest.approx(exact, rel=1e-8)


def test_es_measures_the_hessian_of_the_supernets_loss(batch: Pair) -> None:
    method = make("darts-es")
    torch.manual_seed(1)
    net = build_supernet(method.space, channels=4, cells=1, classes=10).double()
    method.logits = {"cell": method.logits["cell"].detach().double().requires_grad_()}
    images, labels = batch[0].double(), batch[1]

    def loss(weights: Any) -> Any:
        return torch.nn.functional.cross_entropy(net(images, weights), labels)

    trainer = SimpleNamespace(validation_loss=loss)
    dense = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda x: loss({"cell": torch.softmax(x.view(6, 5), -1)}), method.logits["cell"].flatten()
    )
    exact = float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1])
    assert method.curvature(trainer) == pytest.approx(exact, rel=1e-3)


def test_es_goes_back_to_before_the_eigenvalue_grew(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"every": 2, "window": 3, "lag": 2, "factor": 1.3, "earliest": 2}
    method = make("darts-es", options=settings)
    values = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.1, 2.0, 3.0])
    monkeypatch.setattr(method, "curvature", lambda trainer: next(values))
    for epoch in range(40):
        method.begin_epoch(epoch)
        set_logits(method, torch.full((6, 5), float(epoch)))
        method.end_epoch(None)
        if method.finished:
            break
    # Means of three end at 1, 1, 1, 1.03, 1.37 (epoch 12): 1.37 > 1.3·1, whose centre is epoch 6.
    assert epoch == 12
    assert torch.equal(method.logits["cell"].detach(), torch.full((6, 5), 6.0))


def test_darts_plus_stops_at_the_second_skip_connection() -> None:
    method = make("darts-plus")
    logits = torch.zeros(6, 5)
    logits[:, 3] = 1
    logits[0, 1] = 2
    set_logits(method, logits)
    method.end_epoch(None)
    assert not method.finished
    logits[5, 1] = 2
    set_logits(method, logits)
    method.end_epoch(None)
    assert method.finished


def test_darts_plus_can_stop_at_a_stable_ranking() -> None:
    method = make("darts-plus", options={"skips": 6, "patience": 3})
    for epoch in range(4):
        assert not method.finished
        set_logits(method, ranked() * (epoch + 1))
        method.end_epoch(None)
    assert method.finished


def test_random_search_draws_uniformly_and_takes_the_best() -> None:
    method = make("random", options={"samples": 400})
    counts = sum(method.draw()["cell"] for _ in range(5000)) / 5000
    torch.testing.assert_close(counts, torch.full((6, 5), 0.2), atol=0.03, rtol=0)
    values = torch.zeros(6, 5)
    values[0, 2] = values[1, 4] = 1.0
    genotype = method.select(Judge({"cell": values}))
    assert [c.operation for c in genotype.cell("cell")[:2]] == ["nor_conv_1x1", "avg_pool_3x3"]


def test_random_search_draws_architectures_of_the_darts_space() -> None:
    method = make("random", space="darts")
    seen = set()
    for _ in range(200):
        drawn = method.draw()
        genotype = method.space.derive(drawn)
        for cell, beta in drawn.items():
            table = method.space.cells[cell]
            chosen = {(c.source, c.target): c.operation for c in genotype.cell(cell)}
            live = {
                table.edges[e]: table.candidates[e][int(row.argmax())]
                for e, row in enumerate(beta)
                if row.any()
            }
            assert chosen == live
            seen |= {e for e, row in enumerate(beta) if row.any()}
    assert seen == set(range(14))


def test_second_order_gradient_is_the_exact_unrolled_one(
    batch: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite differences and the exact mode against torch.func on the whole unrolled objective."""
    torch.manual_seed(0)
    method = make("darts-v2", options={"exact": True})
    a = (0.3 * ranked()).double()
    method.logits = {"cell": a.clone().requires_grad_()}
    net = build_supernet(
        method.space, channels=4, cells=1, classes=10, track_statistics=False
    ).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    train = (batch[0][:4].double(), batch[1][:4])
    valid = (batch[0][4:].double(), batch[1][4:])
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(ws: Any, x: Tensor, data: Pair) -> Any:
        weights = {"cell": torch.softmax(x, -1)}
        logits = torch.func.functional_call(net, ws, (data[0], weights))
        return torch.nn.functional.cross_entropy(logits, data[1])

    x = a.clone().requires_grad_()
    names = list(parameters)
    ws = {n: parameters[n].clone().requires_grad_() for n in names}
    grads = torch.autograd.grad(loss(ws, x, train), [ws[n] for n in names], create_graph=True)
    moved = {n: ws[n] - 0.02 * (g + 1e-3 * ws[n]) for n, g in zip(names, grads, strict=True)}
    (expected,) = torch.autograd.grad(loss(moved, x, valid), x)

    losses = SimpleNamespace(outcome=None)
    step = SimpleNamespace(
        net=net, weight_batch=train, arch_batch=valid, arch_loss=losses, optimizer=optimizer
    )
    (exact,) = method.arch_gradients(step)
    torch.testing.assert_close(exact, expected, rtol=1e-7, atol=1e-10)
    assert losses.outcome is not None
    method.options = type(method.options)(exact=False)
    # At its displacement of 0.01 this tiny net's kinks dominate; the formula is what is tested.
    monkeypatch.setattr("darts.step.FINITE_DIFFERENCE", 1e-5)
    (finite,) = method.arch_gradients(step)
    torch.testing.assert_close(finite, expected, rtol=1e-6, atol=1e-8)
