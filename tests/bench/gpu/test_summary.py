"""Judgement of measurements, and the page."""

from __future__ import annotations

from bench.gpu.summary import markdown, targets

ABOUT = {"device": "GPU", "date": "today", "commit": "c", "build": {"cuda": "13", "torch": "2"}}


def row(kind: str, shape: list[int], **us: float) -> dict[str, object]:
    return {"shape": shape, "dtype": "float32", "pass": kind, "us": us}


def test_targets_are_met_or_missed() -> None:
    rows = [
        row("both", [4096, 8192], ours=100.0, eager=399.0, compiled=100.0, floor=91.0),
        row("forward", [6, 5], ours=5.0, eager=9.0, compiled=4.0, floor=0.1),
    ]
    met = {(t["case"], t["target"]): t["met"] for t in targets(rows)}
    assert met == {
        ("4096x8192", "compiled"): True,
        ("4096x8192", "eager"): False,
        ("4096x8192", "bandwidth"): True,
        ("6x5", "compiled"): False,
    }


def test_the_page_says_how_each_task_ended_and_what_was_measured() -> None:
    def task(code: int, left: int = 0, state: str = "now") -> dict[str, object]:
        return {"code": code, "left": left, "state": state, "seconds": 3.0, "date": "then"}

    tasks = {"a": task(0), "b": task(124), "c": task(1), "d": task(0, 7), "e": task(0, 0, "old")}
    operator = {"rows": [row("both", [6, 5], ours=5.0, eager=9.0, compiled=4.0)]}
    step = {"nb201": [{"name": "ours", "times": [0.01, 0.02, 0.03], "peak_bytes": 2**21}]}
    page = markdown(ABOUT, "now", tasks, operator, step).splitlines()
    assert "| a | passed | 3.0 | then |" in page
    assert "| b | stopped at its limit | 3.0 | then |" in page
    assert "| c | failed (1) | 3.0 | then |" in page
    assert "| d | passed, 7 left | 3.0 | then |" in page
    assert "| e | passed, before the last change | 3.0 | then |" in page
    assert "| 6x5 | float32 | both | eager | 4.0 | 1.8 | missed |" in page
    assert "| 6x5 | float32 | both | ours | 5.0 |" in page
    assert "| nb201 | ours | 20.0 | 2 |" in page
