"""From names and `key=value` settings to specs: every key is known, every value has its type, or it is an error."""

from __future__ import annotations

import inspect
import json
import math
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentError, ArgumentParser

from anomaly_bench.bench.catalog import load_dataset, load_method
from anomaly_bench.bench.profiles import Profile
from anomaly_bench.bench.recall import recalled
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.methods.protocol import Protocol

if TYPE_CHECKING:
    from anomaly_bench.methods.base import DistillationMethod

# What --set takes beside a method's own options, with types.
PROTOCOL = typing.get_type_hints(Protocol) | {"student": str}
EVALUATION = {name: hint for name, hint in typing.get_type_hints(EvalSpec).items() if name != "metrics_revision"}
SUBSET = {"train_images": int | None, "test_images": int | None}
NETWORKS = ("teacher", "student")
SAME = "same"  # a student of the teacher's own structure
# A network has one name in a run's identity, whatever shorthand was typed.
NETWORK_ALIASES = {"tf_efficientnet_lite0": "tf_efficientnet_lite0.in1k"}


def option_types(method: type[DistillationMethod]) -> dict[str, Any]:
    """Type of every option of a method: the keyword-only arguments of its constructor."""
    return {name: hint for name, (hint, _) in _keyword_only(method.__init__).items()}


def option_defaults(method: type[DistillationMethod]) -> dict[str, Any]:
    """Default of every option of a method."""
    return {name: default for name, (_, default) in _keyword_only(method.__init__).items()}


@cache
def _keyword_only(constructor: Callable[..., None]) -> dict[str, tuple[Any, Any]]:
    """Type and default by name."""
    hints, parameters = typing.get_type_hints(constructor), inspect.signature(constructor).parameters.values()
    return {one.name: (hints[one.name], one.default) for one in parameters if one.kind is one.KEYWORD_ONLY}


def parse_settings(settings: Sequence[str], *, option: str = "--set") -> dict[str, str]:
    """`["epochs=3", ...]` as a mapping."""
    parsed = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or not name:
            raise UserError(f"{option} takes key=value, not '{setting}'.")
        parsed[name.strip()] = value.strip()
    return parsed


def typed(name: str, value: Any, annotation: Any) -> Any:
    """`value` (text, or data from YAML) as `annotation` says; raises UserError when it is not that."""
    value = "null" if value is None else value  # YAML's, which jsonargparse would let through as it is
    typed_in = isinstance(value, str)
    return _typed(name, value if typed_in else json.dumps(value, default=str), typed_in, annotation)


@cache  # building a parser takes longer than all the rest, and tables ask for the same values thousands of times
def _typed(name: str, text: str, typed_in: bool, annotation: Any) -> Any:
    """`text` is what was typed, or else data as JSON."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=annotation)
    try:
        if typed_in:
            parsed = parser.parse_args([f"--{name}={text}"])[name]
        else:
            parsed = parser.parse_object({name: json.loads(text)})[name]
    except ArgumentError as error:
        raise UserError(f"{name} must be {readable(annotation)}, not '{text}'.") from error
    numbers = [part for part in (parsed if isinstance(parsed, tuple) else [parsed]) if isinstance(part, float)]
    if not all(math.isfinite(number) for number in numbers):
        raise UserError(f"{name} must be {readable(annotation)}, not '{text}'.")
    return parsed + 0.0 if isinstance(parsed, float) else parsed  # -0.0 is 0.0, and must have its name


def readable(annotation: Any) -> str:
    """A type as a sentence names it."""
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(annotation))
    names: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}
    names[int | None] = "a whole number or null"
    names[tuple[float, float]] = "two numbers such as [0.5, 0.999]"
    names[tuple[int, ...]] = "whole numbers such as [1,2,3]"
    return names.get(annotation) or str(annotation).replace(" | None", " or null")


def resolve(
    method_name: str,
    dataset_name: str,
    category: str,
    profile: Profile,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> tuple[RunSpec, EvalSpec]:
    """The specs of one run: the paper's protocol, then the profile's values, then the user's.

    Args:
        method_name: name of the method.
        dataset_name: name of the data set.
        category: name of the category; whether it exists is asked where the data are at hand.
        profile: the profile.
        seed: the user's seed.
        settings: values by name: options of the method, fields of `Protocol` and `EvalSpec`, subset sizes.

    Raises:
        UserError: a name is unknown, or a value is of the wrong type or out of range.
    """
    given = settings or {}

    def ask() -> list[Any]:
        spec, evaluation = _resolve(method_name, dataset_name, profile, given)
        return [spec.as_json(), evaluation.as_json()]

    spec, evaluation = recalled(["resolve", method_name, dataset_name, dict(profile.settings), dict(given)], ask)
    return replace(RunSpec.from_json(spec), category=category, seed=seed), EvalSpec(**evaluation)


def _resolve(
    method_name: str, dataset_name: str, profile: Profile, settings: Mapping[str, Any]
) -> tuple[RunSpec, EvalSpec]:
    """As `resolve`, for no category in particular and seed 0."""
    method, dataset = load_method(method_name), load_dataset(dataset_name)
    values = _typed_settings(method_name, {**_profile_settings(method, profile), **settings})
    if dataset.default_image_size is not None:
        values.setdefault("image_size", dataset.default_image_size)
    defaults = option_defaults(method)
    options = {name: value for name, value in _among(values, defaults).items() if value != defaults[name]}
    protocol = _with_same_student(replace(method.protocol, **_among(values, PROTOCOL)))
    method.check(protocol, {**defaults, **options})
    spec = RunSpec(
        method=method_name,
        method_revision=method.revision,
        dataset=dataset_name,
        data_revision=dataset.revision,
        category="",
        protocol=protocol,
        options=tuple(sorted(options.items())),
        **_among(values, SUBSET),
    )
    return spec, _evaluation(method_name, _among(values, EVALUATION))


def _with_same_student(protocol: Protocol) -> Protocol:
    """`same` is the teacher's own network, `same.random` that network from scratch."""
    if protocol.student == SAME:
        return replace(protocol, student=protocol.teacher)
    if protocol.student == f"{SAME}.random":
        return replace(protocol, student=f"{protocol.teacher.partition('.')[0]}.random")
    return protocol


def own_evaluation(method_name: str) -> EvalSpec:
    """The method's own evaluation: RD4AD's, but for what its paper says."""
    return EvalSpec(**recalled(["evaluation", method_name], lambda: dict(load_method(method_name).evaluation)))


def own_protocol(method_name: str) -> tuple[Protocol, tuple[str, ...]]:
    """The protocol of the method's paper, and the fields of it that the method never reads."""

    def ask() -> list[Any]:
        method = load_method(method_name)
        return [asdict(method.protocol), method.unused]

    protocol, unused = recalled(["protocol", method_name], ask)
    return Protocol(**{**protocol, "betas": tuple(protocol["betas"])}), tuple(unused)


def category_names(dataset_name: str, data_root: Path) -> list[str]:
    """All categories of a data set, or those on disk where there is no list of them."""
    listed = recalled(["categories", dataset_name], lambda: load_dataset(dataset_name).categories)
    return list(listed) or load_dataset(dataset_name).category_names(data_root)


def evaluation_with(method_name: str, settings: Mapping[str, Any]) -> EvalSpec:
    """The method's own evaluation but for `settings`, fields of `EvalSpec`; raises UserError as `resolve` does."""
    for name in settings:
        if name not in EVALUATION:
            raise UserError(f"an evaluation has no '{name}'{nearest(name, EVALUATION)}")
    return _evaluation(method_name, {name: typed(name, value, EVALUATION[name]) for name, value in settings.items()})


def _evaluation(method_name: str, values: Mapping[str, Any]) -> EvalSpec:
    evaluation = replace(own_evaluation(method_name), **values)
    if evaluation.score_from != "precise" and "coarse" not in load_method(method_name).maps:
        raise UserError(f"{method_name} has no coarse maps; leave score_from at precise.")
    return evaluation


def _profile_settings(method: type[DistillationMethod], profile: Profile) -> dict[str, Any]:
    """The profile's values; its student stands in for another, and says nothing to methods that build their own."""
    return {name: value for name, value in profile.settings.items() if name in known_settings(method)}


def known_settings(method: type[DistillationMethod]) -> dict[str, Any]:
    """Everything that `--set` takes for a method, with types."""
    unused = {*method.unused, *(() if method.protocol.student else ("student",))}
    protocol = {name: hint for name, hint in PROTOCOL.items() if name not in unused}
    return {**option_types(method), **protocol, **EVALUATION, **SUBSET}


def _typed_settings(method_name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting known and of its type."""
    known = known_settings(load_method(method_name))
    for name in settings:
        if name not in known:
            raise UserError(f"{method_name} has no option '{name}'{nearest(name, known)}")
    values = {name: typed(name, value, known[name]) for name, value in settings.items()}
    for name, count in _among(values, SUBSET).items():
        if count is not None and count < 1:
            raise UserError(f"{name} must be at least 1, not {count}.")
    for name in _among(values, NETWORKS):
        values[name] = NETWORK_ALIASES.get(values[name], values[name])
    return values


def _among(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}
