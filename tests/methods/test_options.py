"""Options of the methods: each says whether it is the paper's or ours, and ours say why on the spot."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.catalog import load_method, method_names
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.errors import UserError
from anomaly_bench.methods.options import (
    OURS,
    RELEASED,
    STATED,
    Ours,
    Stated,
    check_share,
    check_stages,
    option_sources,
)
from anomaly_bench.methods.protocol import Protocol

# What the papers leave open, as METHODS.md lists it: options, and fields of the protocol.
OPEN_OPTIONS = {
    "rd": set(),
    "fmm_scsatt": {
        "mask_rate", "mask_at_test", "mask_rescale", "scsatt_order", "gate", "simam_lambda", "fusion_width",
    },
    "ast_mfr": {"mask_rate", "alignment"},
    "variance_rd": {"variance_weight", "reduction", "detach_mean", "resize_student", "loss_form"},
    "dlkd": {
        "noise_at", "noise_mode", "noise_share", "margin", "d_state", "expand", "ffn_ratio", "patches", "detach_map",
    },
}  # fmt: skip
# What their authors' code has, but not the paper.
RELEASED_OPTIONS = {"rd": {"loss_form"}}
# What they print, by the same list.
PRINTED_PROTOCOL: dict[str, dict[str, Any]] = {
    "rd": {"teacher": "wide_resnet50_2.tv_in1k", "epochs": 200, "batch_size": 16, "lr": 0.005, "betas": (0.5, 0.999),
           "image_size": 256},
    "fmm_scsatt": {"teacher": "wide_resnet50_2.tv_in1k", "image_size": 256, "lr": 0.001, "batch_size": 16,
                   "epochs": 200},
    "ast_mfr": {"teacher": "wide_resnet50_2.tv_in1k", "student": "resnext50_32x4d.tv_in1k", "image_size": 256,
                "betas": (0.9, 0.999), "lr": 0.001, "batch_size": 32, "epochs": 200},
    "variance_rd": {"lr": 0.005, "batch_size": 16},
    "dlkd": {"teacher": "resnet18.tv_in1k", "image_size": 256, "weight_decay": 1e-4, "batch_size": 8, "lr": 0.005},
}  # fmt: skip
# And our choice where they print nothing.
CHOSEN_PROTOCOL: dict[str, dict[str, Any]] = {
    "rd": {"weight_decay": 0.0, "precision": "bf16-mixed"},
    "fmm_scsatt": {"betas": (0.5, 0.999), "weight_decay": 2e-5, "precision": "bf16-mixed"},
    "ast_mfr": {"weight_decay": 0.0, "precision": "bf16-mixed"},
    "variance_rd": {"teacher": "wide_resnet50_2.tv_in1k", "epochs": 200, "betas": (0.5, 0.999), "weight_decay": 0.0,
                    "image_size": 256, "precision": "bf16-mixed"},
    "dlkd": {"epochs": 200, "betas": (0.5, 0.999), "precision": "bf16-mixed"},
}  # fmt: skip


def source_of(method: str) -> str:
    return Path(inspect.getfile(load_method(method))).read_text(encoding="utf-8")


def commented_lines(source: str) -> set[int]:
    """Numbers of the lines with a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def constructor(source: str) -> ast.FunctionDef:
    """`__init__` of the only class of a method file."""
    (owner,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    return next(node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")


def option_lines(method: str) -> dict[str, int]:
    """The line on which the default of every option stands."""
    arguments = constructor(source_of(method)).args
    defaults = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {argument.arg: default.end_lineno or 0 for argument, default in defaults if default is not None}


def protocol_lines(method: str) -> dict[str, int]:
    """The lines of `PROTOCOL = Protocol(...)`, by field; `Protocol` itself is its first."""
    assignments = (node for node in ast.parse(source_of(method)).body if isinstance(node, ast.Assign))
    call = next(node.value for node in assignments if ast.unparse(node.targets[0]) == "PROTOCOL")
    assert isinstance(call, ast.Call)
    values = {str(keyword.arg): keyword.value.end_lineno or 0 for keyword in call.keywords}
    return values | {"Protocol": call.lineno}


@pytest.mark.parametrize("method", method_names())
def test_a_constructor_takes_networks_a_protocol_and_then_named_options_with_defaults(method: str) -> None:
    arguments = constructor(source_of(method)).args
    networks = ["teacher", "student"] if load_method(method).protocol.student else ["teacher"]
    assert [argument.arg for argument in arguments.args] == ["self", *networks, "protocol"]
    assert arguments.vararg is arguments.kwarg is None
    assert [argument.arg for argument in arguments.kwonlyargs] == list(option_lines(method)), "each has a default"


@pytest.mark.parametrize("method", method_names())
def test_every_option_says_stated_or_ours_as_the_papers_have_it(method: str) -> None:
    sources = option_sources(load_method(method).__init__)
    assert list(sources) == list(option_lines(method))
    assert {option for option, source in sources.items() if source == OURS} == OPEN_OPTIONS[method]
    assert {option for option, source in sources.items() if source == RELEASED} == RELEASED_OPTIONS.get(method, set())


def test_an_option_that_does_not_say_is_an_error() -> None:
    def says(*, one: Stated[float] = 1.0, two: Ours[tuple[int, ...]] = (1,), three: Ours[int | None] = None) -> None:
        """Every way of saying it."""

    def forgets(*, one: Stated[float] = 1.0, two: int = 2) -> None:
        """One that does not."""

    assert option_sources(says) == {"one": STATED, "two": OURS, "three": OURS}
    with pytest.raises(TypeError, match="is none of Stated"):
        option_sources(forgets)


@pytest.mark.parametrize("method", method_names())
def test_every_choice_of_ours_has_a_comment_on_its_line(method: str) -> None:
    comments, lines = commented_lines(source_of(method)), option_lines(method)
    bare = [option for option in sorted(OPEN_OPTIONS[method]) if lines[option] not in comments]
    assert bare == [], f"{method}: say why {bare} have their defaults"


@pytest.mark.parametrize("method", method_names())
def test_every_protocol_value_that_is_not_stated_has_a_comment_on_its_line_or_above_all(method: str) -> None:
    comments, lines = commented_lines(source_of(method)), protocol_lines(method)
    above = lines.pop("Protocol") - 1 in comments
    bare = [name for name in lines if name not in load_method(method).stated and lines[name] not in comments]
    assert bare == [] or above, f"{method}: say why {bare} have their values"


@pytest.mark.parametrize("method", method_names())
def test_the_protocol_is_the_papers_where_it_states_one(method: str) -> None:
    known = {field.name for field in fields(Protocol)}
    protocol, stated = load_method(method).protocol, load_method(method).stated
    assert len(stated) == len(set(stated))
    assert set(stated) & known == PRINTED_PROTOCOL[method].keys()
    assert set(stated) - known <= {field.name for field in fields(EvalSpec)}
    values = {name: getattr(protocol, name) for name in known if getattr(protocol, name) is not None}
    assert values == PRINTED_PROTOCOL[method] | CHOSEN_PROTOCOL[method]


@pytest.mark.parametrize("method", method_names())
def test_the_class_describes_every_option_once(method: str) -> None:
    described = inspect.getdoc(load_method(method)) or ""
    for option in option_lines(method):
        assert described.count(f"\n    {option}: ") == 1, f"{method}: {option}"


@pytest.mark.parametrize("method", method_names())
def test_only_ast_mfr_has_an_evaluation_of_its_own_and_only_dlkd_other_maps(method: str) -> None:
    own = EvalSpec(**load_method(method).evaluation)
    assert own == (EvalSpec(mean_kernel=5) if method == "ast_mfr" else EvalSpec())
    assert load_method(method).maps == (("stage", "coarse") if method == "dlkd" else ("stage",))


@pytest.mark.parametrize("stages", [(1,), (3,), (1, 3), (1, 2, 3), [2, 3]])
def test_stages_in_rising_order_are_taken(stages: tuple[int, ...]) -> None:
    check_stages("x", stages)
    check_stages("x", (), may_be_empty=True)


@pytest.mark.parametrize("stages", [(), (0,), (4,), (2, 1), (1, 1), (1, 2, 3, 4), (-1, 1)])
def test_other_stages_are_refused_with_what_was_given(stages: tuple[int, ...]) -> None:
    with pytest.raises(UserError) as error:
        check_stages("x", stages)
    rule = "x must name stages of 1, 2, 3 in rising order, such as [1,2,3] or [2]"
    assert str(error.value) == f"{rule}, not {list(stages)}."
    if stages:
        with pytest.raises(UserError, match=r"or \[2\] or \[\], not"):
            check_stages("x", stages, may_be_empty=True)


def test_a_share_is_from_0_to_below_1() -> None:
    for value in (0.0, 0.5, 0.999):
        check_share("x", value)
    for value in (-0.001, 1.0, 2.0, float("nan")):
        with pytest.raises(UserError, match=r"^x must be at least 0 and below 1, not .*\.$"):
            check_share("x", value)
