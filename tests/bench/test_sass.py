"""The compiled CUDA kernels: no spills, whole packs, registers within budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench import sass

GOOD = sass.Kernel(
    source="sn_softmax_cuda",
    arch="90",
    name="warp_kernel<Backward<float, true>, 1>",
    registers=40,
    stack=0,
    local=0,
    shared=0,
    opcodes=Counter({"LDG.E.128.CONSTANT": 2, "STG.E.128": 1, "FFMA": 50}),
)


PRODUCTS = replace(
    GOOD,
    source="node_convolve_cuda",
    name="tensor_kernel<__nv_bfloat16, 16>",
    registers=128,
    opcodes=Counter(
        {"LDGSTS.E.BYPASS.128": 4, "LDSM.16.M88.4": 6, "HMMA.16816.F32.BF16": 16, "STG.E.128": 2}
    ),
)


ACROSS = replace(
    PRODUCTS,
    name="weights_kernel<float, 16>",
    registers=168,
    opcodes=Counter(
        {
            **{"LDGSTS.E.BYPASS.128": 4, "LDS.128": 2, "LDS.64": 6, "LDS": 9},
            **{"HMMA.1688.F32.TF32": 12, "STG.E.128": 12},
        }
    ),
)


@pytest.mark.parametrize("kernel", [GOOD, PRODUCTS, ACROSS], ids=["softmax", "products", "across"])
def test_a_good_kernel_has_no_problems(kernel: sass.Kernel) -> None:
    assert list(kernel.problems()) == []


def without(opcode: str) -> Counter[str]:
    """What `PRODUCTS` executes, but for ``opcode``."""
    return Counter({k: n for k, n in PRODUCTS.opcodes.items() if k != opcode})


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        (replace(GOOD, stack=8), "uses 8 bytes of stack and 0 of local memory"),
        (replace(GOOD, opcodes=GOOD.opcodes + Counter({"STL": 1})), "of local memory"),
        (replace(GOOD, opcodes=GOOD.opcodes + Counter({"RED.E.ADD": 1})), "has 1 atomics"),
        (replace(GOOD, opcodes=GOOD.opcodes + Counter({"DFMA": 3})), "in double 3 times"),
        (replace(GOOD, registers=97), "has 97 registers, over its 96"),
        (replace(GOOD, opcodes=Counter({"LDG.E": 8, "STG.E.128": 1})), "has 0 16-byte loads"),
        (replace(GOOD, opcodes=Counter({"LDG.E.128": 2, "STG.E": 4})), "has 0 16-byte stores"),
        (replace(PRODUCTS, opcodes=without("HMMA.16816.F32.BF16")), "no products on tensor cores"),
        (replace(PRODUCTS, name="tensor_kernel<float, 16>"), "no products on tensor cores"),
        (replace(PRODUCTS, opcodes=without("LDGSTS.E.BYPASS.128")), "has 0 16-byte loads"),
        (
            replace(PRODUCTS, opcodes=PRODUCTS.opcodes + Counter({"LDGSTS.E": 1})),
            "copies narrower than 16 bytes",
        ),
        (
            replace(PRODUCTS, opcodes=PRODUCTS.opcodes + Counter({"LDSM.16.M88.4": 1})),
            "loads 512 bytes 7 times for 16 products",
        ),
        (replace(PRODUCTS, registers=129), "has 129 registers, over its 128"),
        (
            replace(ACROSS, opcodes=ACROSS.opcodes + Counter({"LDS.64": 1})),
            "loads 512 bytes 5.5 times for 12 products",
        ),
    ],
    ids=[
        *("stack", "local", "atomic", "double", "registers", "loads", "stores"),
        *("products", "of another type", "copies", "narrow copies", "matrices", "blocks", "floats"),
    ],
)
def test_each_fault_is_named(kernel: sass.Kernel, sentence: str) -> None:
    assert any(sentence in problem for problem in kernel.problems())


def test_single_elements_and_sums_in_double() -> None:
    """Where a map does not lie on 16 bytes; and where a rule allows it."""
    opcodes = Counter({"LDG.E": 8, "STG.E": 1, "DADD": 8})
    single = replace(GOOD, name="correlate<float, 1, 3>", opcodes=opcodes)
    assert list(single.problems()) == []
    whole = replace(single, name="correlate<float, 4, 3>")
    assert list(whole.problems()) == ["has 0 16-byte loads, fewer than 4"]
    other = replace(single, name="gather_results<__half, 1, 5, 4>")
    assert list(other.problems()) == ["computes in double 8 times"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90"])
def test_compiled_kernels(arch: str) -> None:
    """The oldest, and the first with clusters; `make sass` compiles for all."""
    if (missing := sass.missing_tools()) is not None:
        pytest.skip(missing)
    kernels = sass.inspect([arch])
    templates = {kernel.template for kernel in kernels}
    assert templates >= set(sass.RULES), "a rule has no kernel"
    assert [f"{k.name} {problem}" for k in kernels for problem in k.problems()] == []
