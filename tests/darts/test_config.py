import dataclasses
from typing import Any

import pytest
import yaml

from darts.config import ConfigError, SearchConfig, as_dict, build, merge, nested, settings
from darts.methods import METHODS
from darts.recipes import RECIPES, configure, recipe
from darts.spaces import SPACES, Space


def test_later_sources_win() -> None:
    config = configure(method="edd", data={"batch_size": 32}, weights={"clip": 1})
    assert config.recipe == "edd"
    assert config.weights.final_learning_rate == 0.025  # the recipe's
    assert config.data.batch_size == 32  # ours, not the recipe's 256
    assert config.weights.clip == 1.0
    assert config.options["lam"] == 0.06  # the method's own default is written out


def test_a_recipe_can_be_chosen_against_the_methods_own() -> None:
    config = configure(method="darts-v1", recipe="edd")
    assert config.data.batch_size == 256
    assert config.arch.weight_decay == 0.0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ({"data": {"batchsize": 3}}, "unknown setting 'data.batchsize'; did you mean 'batch_size'"),
        ({"method": "darts-v3"}, "method 'darts-v3' is unknown; did you mean 'darts-v"),
        ({"recipe": "autodll"}, "recipe 'autodll' is unknown; did you mean 'autodl'"),
        ({"weights": {"lr": 0.1}}, "did you mean 'learning_rate'"),
        ({"method": "edd", "options": {"lamb": 1}}, "did you mean 'lam'"),
        ({"method": "edd", "options": {"lam": 0}}, r"options\.lam must be above 0, not 0"),
        ({"method": "edd", "options": {"entropy": "max"}}, "must be one of mean, sum, not 'max'"),
        ({"method": "edd", "options": {"scale": 1}}, r"options\.scale must be above 1, not 1\.0"),
        ({"epochs": "many"}, "epochs must be a whole number, not 'many'"),
        ({"epochs": 2.5}, r"epochs must be a whole number, not 2\.5"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"weights": {"learning_rate": "nan"}}, r"weights\.learning_rate must be a number"),
        ({"weights": {"nesterov": "maybe"}}, r"weights\.nesterov must be true or false"),
        ({"weights": 3}, "weights must be a group of settings, not 3"),
        ({"supernet": {"precision": "float16"}}, "must be one of float32, bfloat16"),
        ({"space": "nb301"}, "space='nb301' is unknown"),
    ],
)
def test_wrong_settings_are_named(overrides: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        configure(**overrides)


def test_text_from_a_command_line_is_read() -> None:
    text: Any = {"epochs": "7", "weights": {"nesterov": "no", "clip": "0"}, "seed": "3"}
    config = configure(**text)
    assert (config.epochs, config.weights.nesterov, config.weights.clip, config.seed) == (
        7,
        False,
        0.0,
        3,
    )


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("space", sorted(SPACES))
def test_every_configuration_survives_yaml(method: str, space: str) -> None:
    needs_edges = METHODS[method].needs_cells and SPACES[space].around.without_edges
    if needs_edges or (METHODS[method].settles_on_one and SPACES[space].keeps_several):
        with pytest.raises(ConfigError, match=f"method={method} .* space={space} "):
            configure(method=method, space=space)
        return
    config = configure(method=method, space=space)
    stored = yaml.safe_load(yaml.safe_dump(as_dict(config)))
    assert build(SearchConfig, stored) == config
    assert configure(**stored) == config


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_recipes_name_settings_that_exist(name: str, space: Space) -> None:
    build(SearchConfig, nested(recipe(name, space)))


def test_every_setting_is_documented() -> None:
    for path, _, field in settings(SearchConfig):
        assert field.metadata["doc"], path
    for method in METHODS.values():
        for field in dataclasses.fields(method.Options):
            assert field.metadata["doc"], (method.name, field.name)


def test_merge_keeps_what_only_one_layer_has() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"d": 4}) == {
        "a": {"b": 1, "c": 3},
        "d": 4,
    }
