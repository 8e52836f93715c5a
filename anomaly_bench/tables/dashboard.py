"""The dashboard of Weights & Biases: a workspace and a report over what `--wandb` logs, by `wandb-workspaces`.

Both have a section a paper with its tables, measured against printed, metrics run by run, and the curves of training.
Without W&B's server their definitions are written to a file, in the form in which the server takes them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_bench.bench.texts import replace_text, to_text
from anomaly_bench.bench.wandb_run import ALL_BUT_SEED, project_name, require_key
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.tables.build import BuiltTable
from anomaly_bench.tables.report.names import by_paper, paper_title
from anomaly_bench.tables.wandb_suite import CELLS, JOB_TYPE, key_of

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

TITLE = "anomaly_bench: measured against printed"
BARS, MOST_BARS = ("image_auroc", "pixel_auroc", "aupro"), 100
BY_RUN = "Run by run"
CURVES = ("loss", "lr", "images_per_second")
WIDE, HALF, HEIGHT = 24, 12, 8  # of the 24 columns that W&B lays panels out in


@dataclass(frozen=True)
class Part:
    """A heading and its panels."""

    heading: str
    panels: Sequence[wr.Panel]


def check_dashboard(mode: str) -> None:
    """Raise UserError where there is no such mode, no `wandb-workspaces`, or no key for W&B's server."""
    if mode not in ("offline", "online"):
        raise UserError(f"unknown --wandb '{mode}'{nearest(mode, ('offline', 'online'))}")
    if find_spec("wandb_workspaces") is None:
        raise UserError("the dashboard needs a package; pip install wandb-workspaces.")
    if mode == "online":
        require_key()


def make_dashboard(mode: str, path: Path, tables: Sequence[BuiltTable]) -> list[str]:
    """Where it now is: the file "offline", the addresses "online".

    Args:
        mode: one that `check_dashboard` has passed.
        path: the file.
        tables: those that `--wandb` logs, of one profile or of several.

    Raises:
        UserError: the file or the server does not take it.
    """
    if mode == "online":
        return save_dashboard(tables)
    write_dashboard(path, tables)
    return [str(path)]


def parts(tables: Sequence[BuiltTable]) -> list[Part]:
    """What both show, in their order."""
    return [
        Part("Measured against printed", _against_printed()),
        *(Part(paper_title(paper)[0], _tables(group)) for paper, group in by_paper(_shown(tables)).items()),
        Part(BY_RUN, _bars()),
        Part("Training", _curves()),
    ]


def _shown(tables: Sequence[BuiltTable]) -> list[BuiltTable]:
    """Every table under each profile that has runs of it, and under the first where none has."""
    measured = {built.spec.file_name for built in tables if built.records}
    first = {built.spec.file_name: built for built in reversed(tables)}
    return [
        built
        for built in tables
        if built.records or (built.spec.file_name not in measured and built is first[built.spec.file_name])
    ]


def _tables(tables: Sequence[BuiltTable]) -> list[wr.Panel]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.WeavePanelSummaryTable(table_name=key_of(built), layout=wr.Layout(x=0, y=HEIGHT * index, w=WIDE, h=HEIGHT))
        for index, built in enumerate(tables)
    ]


def _against_printed() -> list[wr.Panel]:
    """Every comparable cell as a point, and the same as a table; "wandb/scatter/v0" is W&B's own chart."""
    import wandb_workspaces.reports.v2 as wr

    chart = wr.CustomChart(
        query={"summaryTable": {"tableKey": CELLS}},
        chart_name="wandb/scatter/v0",
        chart_fields={"x": "printed", "y": "measured"},
        chart_strings={"title": "Measured against printed, %"},
        layout=wr.Layout(x=0, y=0, w=HALF, h=HEIGHT),
    )
    return [chart, wr.WeavePanelSummaryTable(table_name=CELLS, layout=wr.Layout(x=HALF, y=0, w=HALF, h=HEIGHT))]


def _bars() -> list[wr.Panel]:
    """Grouped by everything but the seed: a mean over methods, ablations or profiles would be nobody's number."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.BarPlot(
            title=f"{name} by method, options, category and profile: mean over seeds, at most {MOST_BARS} bars",
            metrics=[wr.Metric(name)],
            groupby=wr.Config(ALL_BUT_SEED),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_bars_to_show=MOST_BARS,
            layout=wr.Layout(x=0, y=HEIGHT * index, w=WIDE, h=HEIGHT),
        )
        for index, name in enumerate(BARS)
    ]


def _curves() -> list[wr.Panel]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=name,
            x=wr.Metric("epoch"),
            y=[wr.Metric(name)],
            log_y=name == "loss",
            layout=wr.Layout(x=0, y=HEIGHT * index, w=WIDE, h=HEIGHT),
        )
        for index, name in enumerate(CURVES)
    ]


def workspace(entity: str, tables: Sequence[BuiltTable]) -> ws.Workspace:
    """The definition of the workspace; loss terms, whose names are the methods', get panels by themselves."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project_name(),
        name=TITLE,
        sections=[ws.Section(name=part.heading, panels=list(part.panels), is_open=True) for part in parts(tables)],
        auto_generate_panels=True,
    )


def report(entity: str, tables: Sequence[BuiltTable]) -> wr.Report:
    """The definition of the report; curves and bars are of trainings, tables of the suite's runs."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    def runs(part: Part) -> wr.Runset:
        training = part.heading in (BY_RUN, "Training")
        job = expr.Metric("JobType")
        chosen = job != JOB_TYPE if training else job == JOB_TYPE
        return wr.Runset(entity=entity, project=project_name(), name=part.heading, filters=[chosen])

    blocks: list[Any] = [wr.TableOfContents()]
    for part in parts(tables):
        blocks += [wr.H1(text=part.heading), wr.PanelGrid(runsets=[runs(part)], panels=list(part.panels))]
    return wr.Report(entity=entity, project=project_name(), title=TITLE, blocks=blocks, width="fluid")


def write_dashboard(path: Path, tables: Sequence[BuiltTable]) -> None:
    """Both definitions into one JSON file; the file is replaced whole.

    Raises:
        UserError: it cannot be written.
    """
    entity = os.environ.get("WANDB_ENTITY", "")
    # The package has no public way to a definition that needs no server; `save` sends what this gives.
    definitions = {"workspace": workspace(entity, tables), "report": report(entity, tables)}
    plain = {name: made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
             for name, made in definitions.items()}  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, to_text(plain))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --out.") from error


def save_dashboard(tables: Sequence[BuiltTable]) -> list[str]:
    """Both saved to W&B's server; their addresses.

    Raises:
        UserError: the server refuses.
    """
    import wandb

    try:
        entity = os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity or ""
        return [made.save().url for made in (workspace(entity, tables), report(entity, tables))]
    except Exception as error:
        raise UserError(
            f"Weights & Biases did not take the dashboard ({' '.join(str(error).split())}); try again, or write it to "
            "a file with --wandb offline."
        ) from error
