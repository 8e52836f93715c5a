"""The dashboard of Weights & Biases: a workspace and a report over what `--wandb` logs, by `wandb-workspaces`.

Both have a section a paper with its tables, measured against printed, metrics by category, and the curves of training.
Without W&B's server their definitions are written to a file, in the form in which the server takes them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_bench.bench.store import replace_text, to_text
from anomaly_bench.bench.wandb_run import project_name, require_key
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.tables.report.names import paper_title
from anomaly_bench.tables.spec import table_names
from anomaly_bench.tables.wandb_suite import CELLS, JOB_TYPE

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

TITLE = "anomaly_bench: measured against printed"
BARS = ("image_auroc", "pixel_auroc", "aupro")
CURVES = ("loss", "lr", "images_per_second")
WIDE, HALF, HEIGHT = 24, 12, 8  # of the 24 columns that W&B lays panels out in


@dataclass(frozen=True)
class Part:
    """A heading and its panels."""

    heading: str
    panels: Sequence[wr.Panel]


def make_dashboard(mode: str, path: Path) -> list[str]:
    """Where it now is: the file "offline", the addresses "online".

    Raises:
        UserError: no such mode, no `wandb-workspaces`, no key; or the file or the server does not take it.
    """
    if mode not in ("offline", "online"):
        raise UserError(f"unknown --wandb '{mode}'{nearest(mode, ('offline', 'online'))}")
    if find_spec("wandb_workspaces") is None:
        raise UserError("the dashboard needs a package; pip install wandb-workspaces.")
    if mode == "online":
        return save_dashboard()
    write_dashboard(path)
    return [str(path)]


def parts() -> list[Part]:
    """What both show, in their order."""
    papers = {paper: list(names) for paper, names in groupby(table_names(), key=lambda name: name.partition("/")[0])}
    return [
        Part("Measured against printed", _against_printed()),
        *(Part(paper_title(paper)[0], _tables(names)) for paper, names in papers.items()),
        Part("By category", _by_category()),
        Part("Training", _curves()),
    ]


def _tables(names: Sequence[str]) -> list[wr.Panel]:
    import wandb_workspaces.reports.v2 as wr

    places = [wr.Layout(x=0, y=HEIGHT * index, w=WIDE, h=HEIGHT) for index in range(len(names))]
    return [wr.WeavePanelSummaryTable(table_name=name, layout=place) for name, place in zip(names, places, strict=True)]


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


def _by_category() -> list[wr.Panel]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.BarPlot(
            title=f"{name} by category, mean over runs",
            metrics=[wr.Metric(name)],
            groupby=wr.Config("category"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
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


def workspace(entity: str) -> ws.Workspace:
    """The definition of the workspace; loss terms, whose names are the methods', get panels by themselves."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project_name(),
        name=TITLE,
        sections=[ws.Section(name=part.heading, panels=list(part.panels), is_open=True) for part in parts()],
        auto_generate_panels=True,
    )


def report(entity: str) -> wr.Report:
    """The definition of the report; curves and bars are of trainings, tables of the suite's runs."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    def runs(part: Part) -> wr.Runset:
        training = part.heading in ("By category", "Training")
        job = expr.Metric("JobType")
        chosen = job != JOB_TYPE if training else job == JOB_TYPE
        return wr.Runset(entity=entity, project=project_name(), name=part.heading, filters=[chosen])

    blocks: list[Any] = [wr.TableOfContents()]
    for part in parts():
        blocks += [wr.H1(text=part.heading), wr.PanelGrid(runsets=[runs(part)], panels=list(part.panels))]
    return wr.Report(entity=entity, project=project_name(), title=TITLE, blocks=blocks, width="fluid")


def write_dashboard(path: Path) -> None:
    """Both definitions into one JSON file; the file is replaced whole.

    Raises:
        UserError: it cannot be written.
    """
    entity = os.environ.get("WANDB_ENTITY", "")
    # The package has no public way to a definition that needs no server; `save` sends what this gives.
    plain = {name: made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
             for name, made in (("workspace", workspace(entity)), ("report", report(entity)))}  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, to_text(plain))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --out.") from error


def save_dashboard() -> list[str]:
    """Both saved to W&B's server; their addresses.

    Raises:
        UserError: there is no key, or the server refuses.
    """
    require_key()
    import wandb

    try:
        entity = os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity or ""
        return [made.save().url for made in (workspace(entity), report(entity))]
    except Exception as error:
        raise UserError(
            f"Weights & Biases did not take the dashboard ({' '.join(str(error).split())}); try again, or write it to "
            "a file with --wandb offline."
        ) from error
