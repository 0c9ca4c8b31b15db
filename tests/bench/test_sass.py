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


def test_a_good_kernel_has_no_problems() -> None:
    assert list(GOOD.problems()) == []


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
    ],
    ids=["stack", "local", "atomic", "double", "registers", "loads", "stores"],
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
@pytest.mark.parametrize("arch", sass.ARCHITECTURES)
def test_compiled_kernels(arch: str) -> None:
    if (missing := sass.missing_tools()) is not None:
        pytest.skip(missing)
    kernels = sass.inspect([arch])
    templates = {kernel.template for kernel in kernels}
    assert templates >= set(sass.RULES), "a rule has no kernel"
    assert [f"{k.name} {problem}" for k in kernels for problem in k.problems()] == []
