from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import FancyArrowPatch

from darts.benchmark.nb201 import RESNET
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.results.figures import APPEARANCE, draw_trajectory, draw_weights, save
from darts.results.found import UNUSED, draw_cell, found, save_run
from darts.results.run_folder import EpochRecord
from darts.spaces import SPACES

NB201 = Genotype.parse(RESNET)
DARTS = Genotype.parse(
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_5x5', 1), ('dil_conv_3x3', 2), "
    "('skip_connect', 0), ('max_pool_3x3', 0), ('dil_conv_5x5', 1), ('avg_pool_3x3', 4), "
    "('sep_conv_3x3', 3)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def log(epochs: int = 4) -> list[EpochRecord]:
    return [
        {
            "epoch": epoch,
            "temperature": 10.0**-epoch,
            "entropy": 1.5 - 0.3 * epoch,
            "weight_loss": 2.0 - 0.2 * epoch,
            "weight_accuracy": 30.0 + epoch,
            "arch_loss": 2.1 - 0.2 * epoch,
            "arch_accuracy": 28.0 + epoch,
            "seconds": 1.0,
            "genotype": RESNET,
            "weights": {"cell": [[1 - 0.2 * epoch, *[0.05 * epoch] * 4]] * 6},
            "nb201": {"cifar10": 90.0 + epoch},
            "gradient_norms": {"cell": [0.1**epoch, 3 * 0.1**epoch]},
        }
        for epoch in range(epochs)
    ]


def axes() -> Axes:
    return Figure().add_subplot()


def texts(drawn: Axes) -> list[str]:
    return [text.get_text() for text in drawn.texts]


@pytest.mark.parametrize("genotype", [NB201, DARTS], ids=["nb201", "darts"])
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_run_picture_is_written_whole(tmp_path: Path, genotype: Genotype, suffix: str) -> None:
    path = save_run(tmp_path / f"search.{suffix}", log(), genotype, title="EDD on digits")
    assert list(tmp_path.iterdir()) == [path]
    if suffix == "png":
        assert imread(path).shape == (1110, 2100, 4)
    if suffix == "svg":
        assert path.read_text().rstrip().endswith("</svg>")


def test_unknown_format_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="xyz"):
        save_run(tmp_path / "search.xyz", log(), NB201, title="")
    assert list(tmp_path.iterdir()) == []


def test_a_log_of_one_epoch_suffices(tmp_path: Path) -> None:
    assert save_run(tmp_path / "one.png", log(1), NB201, title="one epoch").exists()


def test_trajectories_show_the_log() -> None:
    drawn = axes()
    draw_trajectory(drawn, {"": log()}, "temperature")
    assert drawn.lines[0].get_xydata().tolist() == [[1, 1], [2, 0.1], [3, 0.01], [4, 0.001]]  # type: ignore[union-attr]
    assert drawn.get_yscale() == "log"

    drawn = axes()
    draw_trajectory(drawn, {"": log()}, "accuracy")
    assert [list(map(float, line.get_ydata())) for line in drawn.lines] == [  # type: ignore[arg-type]
        [30, 31, 32, 33],
        [28, 29, 30, 31],
    ]

    drawn = axes()
    draw_trajectory(drawn, {"": log()}, "entropy")
    assert f"uniform β {math.log(5):.2f}" in texts(drawn)


def test_gradient_panel_marks_saturation() -> None:
    records = log()
    records[2]["entropy"] = 0.1
    drawn = axes()
    draw_trajectory(drawn, {"": records}, "gradient")
    values = [float(value) for value in drawn.lines[0].get_ydata()]  # type: ignore[union-attr,arg-type]
    assert values == pytest.approx([2, 0.2, 0.02, 0.002])
    assert list(drawn.lines[1].get_xdata()) == [3, 3]  # type: ignore[arg-type]


def test_epochs_without_arch_steps_are_left_out() -> None:
    records = log()
    for name in ("arch_loss", "arch_accuracy", "gradient_norms"):
        del records[0][name]  # type: ignore[misc]
    for quantity in ("accuracy", "gradient"):
        drawn = axes()
        draw_trajectory(drawn, {"": records}, quantity)  # type: ignore[arg-type]
        lengths = [len(line.get_xdata()) for line in drawn.lines]  # type: ignore[arg-type]
        assert lengths == ([4, 3] if quantity == "accuracy" else [3])


def test_runs_are_compared_in_one_panel() -> None:
    drawn = axes()
    draw_trajectory(drawn, {"EDD": log(), "DARTS": log(2)}, "entropy")
    assert drawn.get_legend_handles_labels()[1] == ["EDD", "DARTS"]
    colours = {to_hex(line.get_color()) for line in drawn.lines[:2]}
    assert len(colours) == 2


def test_benchmark_panel_has_the_honest_lines() -> None:
    drawn = axes()
    draw_trajectory(drawn, {"": log()}, "nb201")
    assert {"optimum 94.37", "all-skip collapse 54.30"} <= set(texts(drawn))


@pytest.mark.parametrize("genotype", [NB201, DARTS], ids=["nb201", "darts"])
def test_cell_shows_each_choice_once(genotype: Genotype) -> None:
    for name, choices in genotype.cells:
        drawn = axes()
        draw_cell(drawn, choices, title=name)
        arrows = [patch for patch in drawn.patches if isinstance(patch, FancyArrowPatch)]
        to_output = 1 if genotype.skeleton == "darts" else 0
        assert len(arrows) == len(choices) + to_output
        labels = sorted(APPEARANCE[choice.operation][0] for choice in choices)
        assert sorted(text for text in texts(drawn) if text in labels) == labels
        dashed = [arrow for arrow in arrows if arrow.get_linestyle() not in ("-", "solid")]
        assert len(dashed) == sum(choice.operation == "none" for choice in choices)


def test_a_chain_shows_each_layer_once_in_order() -> None:
    space = SPACES["mobilenet"]
    weights = {name: torch.rand(cell.shape) for name, cell in space.cells.items()}
    genotype = space.derive(weights)
    drawn = axes()
    (draw,) = found(genotype).values()
    draw(drawn)
    shown = [text.get_text() for text in drawn.texts]
    names = str(genotype).removeprefix("mobilenet(").removesuffix(")").split(", ")
    assert shown == [APPEARANCE[name][0] for name in names]


def test_a_graph_shows_each_vertex_and_what_it_reads() -> None:
    """What leads nowhere, vertex 2 here, is grey, and so is its edge."""
    genotype = Genotype.parse(
        '{"matrix": [[0, 1, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], '
        '[0, 0, 0, 0, 0]], "ops": ["input", "maxpool3x3", "conv1x1-bn-relu", "maxpool3x3", '
        '"output"]}'
    )
    drawn = axes()
    (draw,) = found(genotype).values()
    draw(drawn)
    assert [text.get_text() for text in drawn.texts] == [
        "input",
        "max pool",
        "conv 1×1",
        "max pool",
        "output",
    ]
    arrows = [patch for patch in drawn.patches if isinstance(patch, FancyArrowPatch)]
    grey = [to_hex(arrow.get_edgecolor()) == UNUSED for arrow in arrows]
    assert (len(arrows), sum(grey)) == (5, 1)
    assert [text.get_color() == UNUSED for text in drawn.texts] == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_labels_of_a_cell_do_not_overlap() -> None:
    for genotype, width in ((NB201, 14.0), (DARTS, 7.0)):
        for name, choices in genotype.cells:
            figure = Figure(figsize=(width, 3.7), layout="constrained")
            drawn = figure.add_subplot()
            draw_cell(drawn, choices, title=name)
            figure.canvas.draw()
            boxes = [text.get_window_extent() for text in drawn.texts]
            for place, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_heat_map_shows_beta_over_time() -> None:
    drawn = axes()
    operations = SPACES["nb201"].cells["cell"].candidates[0]
    draw_weights(drawn, log(), "cell", 2, operations)
    values = drawn.images[0].get_array()
    assert values is not None
    assert values.shape == (5, 4)
    assert values[:, 3].tolist() == pytest.approx([0.4, 0.15, 0.15, 0.15, 0.15])
    assert [label.get_text() for label in drawn.get_yticklabels()][:2] == ["none", "skip"]


def test_every_operation_of_every_space_has_a_colour() -> None:
    for space in SPACES.values():
        for cell in space.cells.values():
            assert {name for row in cell.candidates for name in row} <= set(APPEARANCE)


def test_failed_drawing_keeps_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    class Broken(Figure):
        def savefig(self, *args: object, **kwargs: object) -> None:
            raise OSError("no space left on device")

    with pytest.raises(UserError, match="no space"):
        save(Broken(), path)
    assert path.read_bytes() == b"old"
