"""One typed, documented tree of settings; unknown names and impossible values are refused.

Every field is declared with `setting(default, doc, ...)`, so that the command line's help, the
printed configuration and the checks all read the same declaration. `darts.recipes.configure`
layers sources in order: the defaults here, a recipe, the method's published values, overrides.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from darts.errors import UserError

T = TypeVar("T")

Precision = Literal["float32", "bfloat16"]
"""Arithmetic of the feature maps."""


class ConfigError(UserError):
    """A setting that does not exist or cannot have the value given."""


def setting(
    default: Any,
    doc: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare a dataclass field with its documentation and the range its values must lie in."""
    return field(
        default=default,
        metadata={"doc": doc, "above": above, "at_least": at_least, "at_most": at_most},
    )


@dataclass(frozen=True)
class ImageConfig:
    """Which images, and how they reach the network."""

    source: str = setting(
        "digits",
        "digits, cifar10, cifar100, svhn, imagenet16-120, MODULE:NAME, an .npz file, or a folder "
        "with one folder of images a class",
    )
    side: int = setting(32, "side that a folder's images are resized to", at_least=4)
    root: str = setting("data", "folder that holds the data sets of torchvision, and ImageNet16")
    download: bool = setting(False, "fetch a torchvision data set that is not in root")
    augment: bool = setting(True, "shift training images, and mirror them where the set allows it")
    loss: str = setting(
        "cross-entropy",
        "cross-entropy (one class an image), bce (several labels), mse (numbers), MODULE:FUNCTION",
    )
    class_weights: str = setting(
        "", "weights of classes in the loss: balanced, or numbers with commas between; empty = 1"
    )
    batch_size: int = setting(64, "images a step", at_least=1)
    cutout: int = setting(0, "side of the square cut out of training images; 0 = none", at_least=0)


@dataclass(frozen=True)
class DataConfig(ImageConfig):
    """What is searched on, and how it is shared out."""

    split: str = setting("", "JSON file of the weight/arch split; empty = a random half each")
    stratified: bool = setting(False, "random halves that share out every class evenly")
    keep_last: bool = setting(False, "keep the last batch of an epoch where it is smaller")
    replacement: bool = setting(False, "draw the images of arch steps with replacement")


@dataclass(frozen=True)
class SupernetConfig:
    """The network that holds every candidate."""

    channels: int = setting(16, "channels of the first cell", at_least=1)
    cells: int = setting(5, "cells a stage, or in all (the spaces of DARTS)", at_least=1)
    precision: Precision = setting("float32", "arithmetic of the feature maps")
    adapt: str = setting(
        "",
        "MODULE:FUNCTION that changes the supernet before it trains: its stem, head or criterion",
    )
    zero_skip: bool = setting(
        True,
        "leave out what a weight lost in rounding multiplies: on the CPU, and of own convolutions",
    )
    own_convolutions: bool = setting(
        False, "on a GPU, kernels of this package for what leaves a node; no GPU has run them yet"
    )


@dataclass(frozen=True)
class WeightConfig:
    """SGD on the operation weights ω."""

    learning_rate: float = setting(0.025, "learning rate at the first epoch", above=0)
    final_learning_rate: float = setting(
        0.001, "where the cosine ends; equal to learning_rate = constant", at_least=0
    )
    momentum: float = setting(0.9, "momentum", at_least=0, at_most=1)
    nesterov: bool = setting(True, "Nesterov's form of momentum")
    weight_decay: float = setting(5e-4, "L2 penalty on ω", at_least=0)
    clip: float = setting(5.0, "largest gradient norm; 0 = unlimited", at_least=0)


@dataclass(frozen=True)
class ArchConfig:
    """Adam (or the method's own rule) on the architecture parameters α."""

    learning_rate: float = setting(3e-4, "learning rate", above=0)
    beta1: float = setting(0.5, "Adam's decay of the first moment", at_least=0, at_most=1)
    beta2: float = setting(0.999, "Adam's decay of the second moment", at_least=0, at_most=1)
    weight_decay: float = setting(1e-3, "L2 penalty on α", at_least=0)
    clip: float = setting(0.0, "largest gradient norm of α; 0 = unlimited", at_least=0)
    initial_scale: float = setting(1e-3, "standard deviation of the initial α", at_least=0)
    first: bool = setting(False, "the arch step comes before the weight step of the same batch")
    warmup: int = setting(0, "epochs at the start in which α stays as it is", at_least=0)


@dataclass(frozen=True)
class BudgetConfig:
    """What the network found may cost at most, as `python -m darts evaluate` then trains it."""

    params: float = setting(0.0, "most parameters of the network found; 0 = any", at_least=0)
    macs: float = setting(
        0.0, "most multiply-adds of the network found, for one image; 0 = any", at_least=0
    )
    latency: float = setting(
        0.0,
        "most milliseconds a picture of the network found, by budget.table; 0 = any",
        at_least=0,
    )
    table: str = setting("", "file that `python -m darts latency` wrote on the device in question")
    device: str = setting(
        "", "kind of device that budget.table must be of, cpu or cuda; empty = any"
    )
    channels: int = setting(
        0, "channels of the network that is bounded; 0 = those that evaluate takes", at_least=0
    )
    cells: int = setting(
        0, "cells of the network that is bounded; 0 = those that evaluate takes", at_least=0
    )


@dataclass(frozen=True)
class SearchConfig:
    """Everything that decides a search; `darts.search(config)` runs it."""

    method: str = setting("edd", "search method (python -m darts methods), or MODULE:NAME")
    space: str = setting(
        "nb201", "search space (nb201, darts, s1 to s4, transnas, mobilenet, ...), or MODULE:NAME"
    )
    recipe: str = setting("", "named bundle of training settings; empty = the method's own")
    epochs: int = setting(50, "epochs of the search", at_least=1)
    seed: int = setting(0, "seed of every random generator", at_least=0)
    device: str = setting("cpu", "device of the search, such as cpu or cuda:0")
    out: str = setting("", "run folder; empty = nothing is written")
    checkpoint_minutes: float = setting(
        10.0, "longest time between two checkpoints; one is written after every epoch too", above=0
    )
    nb201: str = setting("", "compact NAS-Bench-201 table to look architectures up in")
    data: DataConfig = field(default_factory=DataConfig)
    supernet: SupernetConfig = field(default_factory=SupernetConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    options: Mapping[str, Any] = field(
        default_factory=dict, metadata={"doc": "the method's own settings"}
    )


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Make dataclass `cls` from nested mappings.

    Raises:
        ConfigError: naming the setting, its value and what is allowed; an unknown name is
            answered with the nearest valid one.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else name
        if name not in known:
            raise ConfigError(f"unknown setting {path!r}{nearest(name, known)}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{path} must be a group of settings, not {value!r}")
            arguments[name] = build(typing.cast(type, hint), value, path)
        else:
            arguments[name] = _checked(path, value, hint, known[name].metadata)
    return cls(**arguments)


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """End of an error sentence: the closest valid name, or all of them."""
    initials = [k for k in known if "".join(word[0] for word in k.split("_")) == name]
    close = initials or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid are: {', '.join(sorted(known))}" if known else "; there are none here"


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested union of mappings; later layers win."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
            merged[name] = merge(merged[name], value) if both else value
    return merged


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Turn {"data.batch_size": 64} into {"data": {"batch_size": 64}}."""
    tree: dict[str, Any] = {}
    for path, value in dotted.items():
        *groups, name = path.split(".")
        tree = merge(tree, _wrap(groups, name, value))
    return tree


def as_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionary of a configuration, ready for YAML or JSON."""
    return typing.cast("dict[str, Any]", _plain(config))


def settings(cls: type[Any], where: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every leaf setting of `cls` as (dotted path, type, field), depth first."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        path = f"{where}.{f.name}" if where else f.name
        if dataclasses.is_dataclass(hints[f.name]):
            yield from settings(typing.cast(type, hints[f.name]), path)
        elif f.name != "options":
            yield path, hints[f.name], f


def _wrap(groups: list[str], name: str, value: Any) -> dict[str, Any]:
    tree = {name: value}
    for group in reversed(groups):
        tree = {group: tree}
    return tree


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _checked(path: str, value: Any, hint: Any, limits: Mapping[str, Any]) -> Any:
    converted = _convert(path, value, hint)
    if isinstance(converted, (int, float)) and not isinstance(converted, bool):
        _check_limits(path, converted, limits)
    return converted


def _convert(path: str, value: Any, hint: Any) -> Any:
    """Value as type `hint`; text from a command line is read, a wrong type is refused."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        absent = value is None or (isinstance(value, str) and value.lower() == "none")
        if absent and len(inner) < len(typing.get_args(hint)):
            return None
        return _convert(path, value, inner[0])
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            shown = ", ".join(map(str, allowed))
            raise ConfigError(f"{path} must be one of {shown}, not {value!r}")
        return value
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be a group of settings, not {value!r}")
        return dict(value)
    if hint is bool:
        return _boolean(path, value)
    if hint is str and isinstance(value, types.FunctionType):
        if not value.__qualname__.isidentifier():
            raise ConfigError(
                f"{path} must be a function at the top of a module, not {value.__qualname__}"
            )
        return f"{value.__module__}:{value.__qualname__}"
    if hint is str and isinstance(value, str):
        return value
    if hint in (int, float) and isinstance(value, (int, float, str)) and value is not True:
        try:
            number = hint(value)
        except ValueError:
            number = None
        if number is not None and number == float(value) and not math.isnan(number):
            return number
    kind = {int: "a whole number", float: "a number", str: "text"}.get(hint, str(hint))
    raise ConfigError(f"{path} must be {kind}, not {value!r}")


def _boolean(path: str, value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ConfigError(f"{path} must be true or false, not {value!r}")


def _check_limits(path: str, value: float, limits: Mapping[str, Any]) -> None:
    above, at_least, at_most = limits.get("above"), limits.get("at_least"), limits.get("at_most")
    if above is not None and not value > above:
        raise ConfigError(f"{path} must be above {above}, not {value!r}")
    if at_least is not None and not value >= at_least:
        raise ConfigError(f"{path} must be at least {at_least}, not {value!r}")
    if at_most is not None and not value <= at_most:
        raise ConfigError(f"{path} must be at most {at_most}, not {value!r}")
