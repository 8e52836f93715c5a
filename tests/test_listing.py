"""`anomaly-bench list methods`: all that `--set` takes, and what is printed can be typed."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from anomaly_bench.bench.catalog import load_method, method_names
from anomaly_bench.bench.caveats import caveats
from anomaly_bench.bench.few_images import shown_metrics
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.resolve import EVALUATION, SUBSET, option_defaults, own_evaluation, parse_settings, resolve
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Store
from anomaly_bench.cli import main
from anomaly_bench.listing import lines, run_lines
from anomaly_bench.methods.options import OURS, RELEASED, STATED, option_sources
from anomaly_bench.methods.protocol import Protocol
from anomaly_bench.metrics.panel import IMAGE_KEYS
from tests.tables.made_store import made_record, with_data, write_run

LINE = re.compile(r"  (?P<name>\w+)=(?P<value>.+?)  \((?P<type>[^;]+); (?P<source>.+)\)")
COMMON = "every method"


class Listed(NamedTuple):
    """One line: `  name=value  (type; source)`."""

    setting: str
    type: str
    source: str


@cache
def sections() -> dict[str, dict[str, Listed]]:
    """What is printed below each heading, by name; a name printed twice is an error."""
    found: dict[str, dict[str, Listed]] = {}
    for line in lines("methods", Store(Path("nowhere"))):
        if not line.startswith(" "):
            current = found.setdefault(line.partition(":")[0], {})
            continue
        match = LINE.fullmatch(line)
        assert match, line
        assert match["name"] not in current, line
        current[match["name"]] = Listed(f"{match['name']}={match['value']}", match["type"], match["source"])
    return found


def test_every_method_has_a_heading_with_its_first_sentence() -> None:
    assert list(sections()) == [*method_names(), COMMON]
    headings = [line for line in lines("methods", Store(Path("nowhere"))) if not line.startswith(" ")]
    for name, heading in zip(method_names(), headings, strict=False):
        assert re.fullmatch(rf"{name}: [A-Z].{{20,}}\.", heading)


@pytest.mark.parametrize("method", method_names())
def test_every_option_is_printed_with_type_and_source(method: str) -> None:
    sources = option_sources(load_method(method).__init__)
    assert sources
    for option, source in sources.items():
        listed = sections()[method][option]
        assert listed.source == source
        assert listed.source in ("stated in the paper", "the authors' code", "our choice")
        assert re.fullmatch(r"one of .+|a whole number( or null)?|a number|true or false|whole numbers such as .+",
                            listed.type)  # fmt: skip


def expected_source(method: str, name: str) -> str:
    """A network is stated, but never which release of its weights."""
    if name in load_method(method).stated:
        return STATED + (f", the weights' release {OURS}" if name in ("teacher", "student") else "")
    return RELEASED if name in load_method(method).released else OURS


@pytest.mark.parametrize("method", method_names())
def test_every_protocol_value_is_printed_with_type_and_source(method: str) -> None:
    student = set() if load_method(method).protocol.student else {"student"}
    names = {field.name for field in fields(Protocol)} - student - {*load_method(method).unused}
    for name in names:
        listed = sections()[method][name]
        assert listed.source == f"protocol, {expected_source(method, name)}"
        assert re.fullmatch(r"a name|a whole number|a number|two numbers such as .+|one of .+", listed.type), listed
    for name in EVALUATION:
        listed = sections()[method][name]
        assert listed.source == f"evaluation, never retrains, {expected_source(method, name)}"
        assert listed.setting == f"{name}={getattr(own_evaluation(method), name)}"
    assert sections()[method].keys() == option_defaults(load_method(method)).keys() | names | EVALUATION.keys()
    assert EVALUATION.keys() | {"metrics_revision"} == {field.name for field in fields(EvalSpec)}


@pytest.mark.parametrize("method", method_names())
def test_what_is_printed_can_be_given_back_and_names_the_same_run(method: str) -> None:
    paper = load_profile("paper")
    expected = resolve(method, "mvtec", "bottle", paper)
    printed = [listed.setting for listed in sections()[method].values()]
    for setting in printed:
        assert resolve(method, "mvtec", "bottle", paper, settings=parse_settings([setting])) == expected, setting
    spec, evaluation = resolve(method, "mvtec", "bottle", paper, settings=parse_settings(printed))
    assert (spec.run_id, evaluation.eval_id) == (expected[0].run_id, expected[1].eval_id)


def test_a_list_of_values_is_printed_as_it_is_typed() -> None:
    assert sections()["ast_mfr"]["mfr_stages"].setting == "mfr_stages=[1, 2, 3]"
    assert sections()["dlkd"]["patches"].type == "one of grid, channels, none"
    assert sections()["fmm_scsatt"]["fusion_width"] == Listed("fusion_width=null", "a whole number or null", OURS)
    assert sections()["ast_mfr"]["mean_kernel"] == Listed(
        "mean_kernel=5", "a whole number", f"evaluation, never retrains, {STATED}"
    )
    assert sections()["rd"]["precision"].type == "one of 32-true, bf16-mixed, 16-mixed"


def test_what_every_method_takes_is_printed_once_and_can_be_given_back() -> None:
    common = sections()[COMMON]
    assert common.keys() == SUBSET.keys()
    paper = load_profile("paper")
    settings = parse_settings([listed.setting for listed in common.values()])
    assert resolve("rd", "mvtec", "bottle", paper, settings=settings) == resolve("rd", "mvtec", "bottle", paper)
    background = sections()["rd"]["background"]
    assert background.type == "one of none, otsu, border, grabcut, sam"
    assert background.source == f"evaluation, never retrains, {OURS}"


def test_the_command_prints_these_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == list(lines("methods", Store(tmp_path)))


def test_runs_show_no_metric_of_images_where_tables_do_not(tmp_path: Path) -> None:
    whole, few = made_record("bottle"), made_record("toothbrush")
    few = with_data(few, counts=few.evidence["data"]["counts"] | {"test_good": 1}, complete=False)
    for record in (whole, few):
        write_run(tmp_path / "runs" / record.spec.run_id, record)
    shown = {line.partition("  ")[0]: line for line in lines("runs", Store(tmp_path))}
    assert f"image_auroc {whole.metrics['image_auroc']:.4f}  pixel" in shown[whole.spec.run_id]
    assert f"image_auroc -  pixel_auroc {few.metrics['pixel_auroc']:.4f}" in shown[few.spec.run_id]
    metrics, undefined = shown_metrics(few, few.evaluation)
    assert [name for name, value in metrics.items() if value is None] == list(IMAGE_KEYS) == list(undefined)
    assert undefined["image_ap"] == "1 of 12 good test images, too few for a metric of images"


def test_runs_of_other_rates_sizes_and_precisions_can_be_told_apart(tmp_path: Path) -> None:
    settings = [{}, {"lr": "0.01"}, {"weight_decay": "0.1"}, {"image_size": "64"}, {"precision": "32-true"}]
    for changed in settings:
        record = made_record("bottle", **changed)
        write_run(tmp_path / "runs" / record.spec.run_id, record)
    told = {line.partition("  ")[2] for line in lines("runs", Store(tmp_path))}
    assert len(told) == len(settings)


RESNET18 = "teacher resnet18.tv_in1k in place of the method's wide_resnet50_2.tv_in1k"


def test_a_run_as_its_papers_has_no_caveats() -> None:
    record = made_record("bottle", load_profile("paper"))
    assert caveats(record, record.evaluation) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"resized": True}, ["RESIZED copies of the images"]),
        ({"complete": False}, ["INCOMPLETE data"]),
        ({"verified": False}, ["files with OTHER CHECKSUMS than the official ones"]),
    ],
)
def test_what_is_not_as_in_the_paper_stands_beside_a_runs_numbers(
    changes: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    record = with_data(made_record("bottle"), **changes)
    assert caveats(record, record.evaluation) == [RESNET18, *expected]
    write_run(tmp_path / "runs" / record.spec.run_id, record)
    (line,) = lines("runs", Store(tmp_path))
    assert line.endswith("".join(f"  [{caveat}]" for caveat in [RESNET18, *expected]))
    notes = [line for line in run_lines(record, record.evaluation) if line.startswith("  note: ")]
    assert notes == [f"  note: {caveat}" for caveat in [RESNET18, *expected]]


def test_random_teachers_subsets_devices_and_whole_images_are_caveats() -> None:
    record = made_record("bottle", load_profile("paper"), teacher="wide_resnet50_2.random", train_images=24)
    entry = record.evaluations[record.evaluation] | {"evidence": {"images_without_background": 3, "images": 83}}
    record = replace(
        record,
        evaluations={record.evaluation: entry},
        evidence=record.evidence | {"weights": {"source": "random", "teacher": "wide_resnet50_2.random"}},
        cost={"devices": 2},
    )
    assert caveats(record, record.evaluation) == [
        "teacher wide_resnet50_2.random in place of the method's wide_resnet50_2.tv_in1k",
        "RANDOM weights in the teacher",
        "a SUBSET of 24 training and all test images",
        "trained on 2 devices at once",
        "no background found in 3 of 83 images, scored whole",
    ]


def test_a_run_of_a_method_that_is_gone_is_listed_among_the_others(tmp_path: Path) -> None:
    record = made_record("bottle")
    gone = replace(record, spec=replace(record.spec, method="pyramid_matching"))
    for one in (record, gone):
        write_run(tmp_path / "runs" / one.spec.run_id, one)
    shown = {line.partition("  ")[0]: line for line in lines("runs", Store(tmp_path))}
    assert shown[gone.spec.run_id].endswith("  [a method that is not here any more]")
    assert shown[record.spec.run_id].endswith(f"  [{RESNET18}]")


def test_a_limit_that_is_not_reached_makes_no_subset() -> None:
    record = made_record("bottle", train_images=209, test_images=1000)
    assert caveats(record, record.evaluation) == [RESNET18]
