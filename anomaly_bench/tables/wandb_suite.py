"""The suite's own W&B run: every table as a `wandb.Table`, and the figures that the report shows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_bench.bench.onlookers import Onlookers
from anomaly_bench.bench.wandb_run import open_run
from anomaly_bench.bench.watch import Guard
from anomaly_bench.tables.build import BuiltTable, Cell
from anomaly_bench.tables.figures.draw import category_name
from anomaly_bench.tables.report.names import profiles_of
from anomaly_bench.tables.report.pictures import SUFFIXES

if TYPE_CHECKING:
    import wandb

JOB_TYPE = "suite"
CELLS = "measured_against_printed"
COLUMNS = ("row", "column", "unit", "printed", "measured", "std", "difference", "status", "seeds", "categories", "runs",
           "reason")  # fmt: skip
CELL_COLUMNS = ("table", "row", "column", "printed", "measured", "difference")


def publish_suite(tables: Sequence[BuiltTable], onlookers: Onlookers, results: Path) -> None:
    """One W&B run that holds tables as they were built; what goes wrong is said in one line.

    Args:
        tables: of one profile or of several; their keys are `<profile>/<paper>/<table>`.
        onlookers: with W&B offline or online.
        results: the results folder, whose `figures/` are shown where they belong to the tables.
    """
    guard = Guard("Weights & Biases")
    names = [profile.name for profile in profiles_of(tables)]
    run = guard.attempt(
        lambda: open_run(
            onlookers.wandb,
            results,
            name=f"tables, {', '.join(names)}",
            job_type=JOB_TYPE,
            tags=names,
            group=tables[0].spec.name if len(tables) == 1 else JOB_TYPE,
            config={"profiles": names, "tables": sorted({built.spec.name for built in tables})},
        )
    )
    if run is not None:
        guard.attempt(lambda: run.log(contents(tables, results)))
        Guard(guard.name).attempt(lambda: run.finish(exit_code=int(guard.failed)))


def contents(tables: Sequence[BuiltTable], results: Path) -> dict[str, Any]:
    """What the run logs, by key."""
    return {
        **{key_of(built): cells_table(built) for built in tables},
        CELLS: compared_table(tables),
        **{f"figures/{name}": _figure(path) for name, path in figures_of(tables, results).items()},
    }


def key_of(built: BuiltTable) -> str:
    """Under which the table is logged, whatever else is logged beside it: the dashboard asks for it by this key."""
    return f"{built.profile.name}/{built.spec.file_name}"


def cells_table(built: BuiltTable) -> wandb.Table:
    """A line a cell; numbers at full precision in the cell's unit, as in the table's CSV."""
    import wandb

    data: list[Iterable[Any]] = [[row, column, *_facts(cell)] for row, column, cell in _cells(built)]
    return wandb.Table(columns=list(COLUMNS), data=data)


def _facts(cell: Cell) -> list[str | float | None]:
    runs = " ".join(sorted(record.spec.run_id for record in cell.records))
    return [
        cell.unit, cell.printed.value, cell.measured, cell.std, cell.difference, cell.status,
        " ".join(map(str, cell.seeds)), " ".join(cell.categories), runs, cell.reason or cell.caveat,
    ]  # fmt: skip


def compared_table(tables: Sequence[BuiltTable]) -> wandb.Table:
    """A line for every percentage of any table that has a difference to a printed one."""
    import wandb

    data: list[Iterable[Any]] = [
        [key_of(built), row, column, cell.measured - cell.difference, cell.measured, cell.difference]
        for built in tables
        for row, column, cell in _cells(built)
        if cell.measured is not None and cell.difference is not None and cell.unit == "%"
    ]
    return wandb.Table(columns=list(CELL_COLUMNS), data=data)


def _cells(built: BuiltTable) -> Iterator[tuple[str, str, Cell]]:
    for row, cells in zip(built.spec.rows, built.cells, strict=True):
        for column, cell in zip(built.spec.columns, cells, strict=True):
            yield row.name, column.name, cell


def figures_of(tables: Sequence[BuiltTable], results: Path) -> dict[str, Path]:
    """Figures on disk that show these tables or the categories of their runs, by path below `<results>/figures`."""
    folder, shown = results / "figures", set[str]()
    for built in tables:
        shown.add(key_of(built))
        for record in built.records:
            shown |= {f"{built.profile.name}/{kind}/{category_name(record.spec)}" for kind in ("scores", "maps")}
    found = {
        name: path for name in sorted(shown) for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").exists()
    }
    return found


def _figure(path: Path) -> wandb.Html | wandb.Image:
    import wandb

    if path.suffix == ".svg":
        return wandb.Html(path.read_text(encoding="utf-8"))
    return wandb.Image(str(path))
