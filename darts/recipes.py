"""Named bundles of training settings, and how a configuration is put together from its sources."""

from __future__ import annotations

from typing import Any, cast

from typing_extensions import Unpack

from darts.config import ConfigError, SearchConfig, as_dict, build, merge, nearest, nested
from darts.keywords import SearchKeywords
from darts.methods import Method, get_method
from darts.spaces import Space, enter, get_space

RECIPES = ("autodl", "edd")
"""Names for `SearchConfig.recipe`."""


def recipe(name: str, space: Space) -> dict[str, Any]:
    """Training settings on `space` that differ from the defaults, as {"group.name": value}.

    - autodl: NAS-Bench-201's search recipe (AutoDL-Projects) on nb201, which the defaults are;
      DARTS's own (quark0/darts) on the other spaces.
    - edd: the released code of EDD (chaoji90/PCDEDD): constant learning rate, no weight decay on α,
      batch 256 on nb201, 80 on the DARTS space, 192 on S1-S4.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown{nearest(name, dict.fromkeys(RECIPES))}")
    settings = dict(space.around.search_settings)
    if name == "edd":
        small = 80 if space.many_candidates else 192
        settings |= {
            "data.batch_size": 256 if space.stacked else small,
            "weights.final_learning_rate": 0.025,
            "arch.weight_decay": 0.0,
        }
    return settings


def _names(overrides: dict[str, Any]) -> dict[str, str]:
    """A space or a method class that is given itself, entered under its name, which is returned."""
    names = {}
    if isinstance(space := overrides.get("space"), Space):
        names["space"] = enter(space)
    if isinstance(method := overrides.get("method"), type) and issubclass(method, Method):
        names["method"] = get_method(method).name
    return names


def configure(**settings: Unpack[SearchKeywords]) -> SearchConfig:
    """Layer a search's settings: defaults, recipe, the method's published values, overrides.

    Examples:
        >>> config = configure(method="edd", space="nb201", data={"source": "digits"}, epochs=20)

    Args:
        settings: fields of `SearchConfig`; groups as mappings. They win over everything else. A
            space and a registered method may be given themselves, in place of their names.

    Raises:
        ConfigError: an unknown name or an impossible value.
    """
    overrides = cast("dict[str, Any]", settings)
    overrides |= _names(overrides)
    asked = build(SearchConfig, overrides)  # before anything else: names and values are valid
    space = get_space(asked.space)
    method = get_method(asked.method)
    if method.needs_cells and (instead := space.around.without_edges):
        raise ConfigError(
            f"method={method.name} needs operations on edges of cells, and space={asked.space} "
            f"{instead}; take a method that does not, such as edd, or a space such as nb201"
        )
    if method.settles_on_one and space.keeps_several:
        raise ConfigError(
            f"method={method.name} settles on one candidate a row of α, and in "
            f"space={asked.space} nodes read several others; take a method that does not, such as "
            "edd, or a space such as nb201"
        )
    published = method.published(space)
    name = asked.recipe or published.pop("recipe")
    layers = merge(nested(recipe(name, space)), nested(published), overrides, {"recipe": name})
    options = build(method.Options, layers.get("options", {}), "options")
    return build(SearchConfig, merge(layers, {"options": as_dict(options)}))
