"""The command line: parses, calls, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from anomaly_bench import __version__
from anomaly_bench.arguments import cache_of, complain, names_in, places_of, refuse_idle, seeds_in, store_of, watched
from anomaly_bench.bench.recall import recalling
from anomaly_bench.commands_data import check_command, fetch_command
from anomaly_bench.commands_use import export_command, predict_command, score_command
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.parsers import (
    LISTS,
    add_places,
    check_parser,
    dashboard_parser,
    data_parser,
    export_parser,
    fetch_parser,
    list_parser,
    predict_parser,
    report_parser,
    run_parser,
    score_parser,
    table_parser,
    tables_parser,
)
from anomaly_bench.words import Parser, refuse_unknown

if TYPE_CHECKING:
    from anomaly_bench.bench.places import Places
    from anomaly_bench.bench.spec import PlannedRun
    from anomaly_bench.bench.store import Store
    from anomaly_bench.tables.build import BuiltTable


def run_command(arguments: Namespace) -> int:
    """`anomaly-bench run`."""
    from anomaly_bench.bench.profiles import load_profile
    from anomaly_bench.bench.resolve import parse_settings, resolve

    settings = parse_settings([setting for group in arguments.set for setting in group])
    profile = load_profile(arguments.profile)
    spec, evaluation = resolve(
        arguments.method, arguments.dataset, arguments.category, profile, seed=arguments.seed, settings=settings
    )
    from anomaly_bench.bench.claims import ClaimedElsewhereError
    from anomaly_bench.bench.obtain import obtain
    from anomaly_bench.bench.store import RunFailedError
    from anomaly_bench.listing import run_lines

    store, places = store_of(arguments), watched(places_of(arguments), arguments, profile.name, {})
    try:
        try:
            obtained = obtain(spec, evaluation, places, store, again=arguments.again, wait=False)
        except ClaimedElsewhereError:
            print(f"another process is at run {spec.run_id}; waiting for it.", file=sys.stderr, flush=True)
            obtained = obtain(spec, evaluation, places, store, again=arguments.again)
    except RunFailedError as error:
        print(f"error: {str(error).rstrip('.')}{'; ' if error.remedy else '.'}{error.remedy}", file=sys.stderr)
        return 1
    finally:
        complain(store)
    print(f"run {spec.run_id} ({spec.title}): {obtained.how}")
    print("\n".join(run_lines(obtained.record, evaluation.eval_id)))
    return 0


def table_command(arguments: Namespace) -> int:
    """`anomaly-bench table`."""
    from anomaly_bench.bench.profiles import load_profile
    from anomaly_bench.tables.index import Index
    from anomaly_bench.tables.plan import table_runs
    from anomaly_bench.tables.publish import build_by_name, profile_table, write_table
    from anomaly_bench.tables.render import to_markdown

    if arguments.no_train:
        refuse_idle(arguments, "--no-train", "dry_run")
    profile, places, store = load_profile(arguments.profile), places_of(arguments), store_of(arguments)
    categories, seeds = names_in(arguments.categories), seeds_in(arguments.seeds)
    table = profile_table(arguments.table, profile, places.data_root, peers=arguments.peers)
    runs = table_runs(table, profile, places.data_root, categories=categories, seeds=seeds)
    places = watched(places, arguments, profile.name, {table.name: runs})
    status = 0
    if arguments.dry_run or not arguments.no_train:
        status = _train(arguments, runs, places, store, title=f"{table.name}, profile {profile.name}: ")
    if arguments.dry_run:
        return 0
    built = build_by_name(table.name, profile, Index.of_store(store), places.data_root, peers=arguments.peers)
    paths = write_table(built, places.results)
    _show_to_wandb([built], places)
    complain(store)
    print(to_markdown(built))
    print(f"written: {', '.join(str(path) for path in paths)}", file=sys.stderr)
    return status


def _train(arguments: Namespace, runs: Sequence[PlannedRun], places: Places, store: Store, *, title: str = "") -> int:
    """Whatever of the runs is to do, or with --dry-run what that is; 1 where runs failed."""
    from anomaly_bench.bench.launch.work import Job
    from anomaly_bench.bench.resolve import parse_settings
    from anomaly_bench.tables.suite import how_long
    from anomaly_bench.tables.train import Workers, do_work
    from anomaly_bench.tables.work_list import describe, explain_missing_weights, sort_work

    retry, again = arguments.retry_failed, arguments.again
    asked_for = arguments.categories is not None
    slurm = parse_settings([setting for group in arguments.slurm for setting in group], option="--slurm")
    if slurm and arguments.launcher != "slurm":
        raise UserError("--slurm needs --launcher slurm.")
    workers = Workers(arguments.launcher, arguments.workers, slurm)
    work = sort_work(runs, places, store, asked_for=asked_for, retry_failed=retry, replace_unfit=again,
                     download=not arguments.dry_run)  # fmt: skip
    print(title + describe(work), file=sys.stderr)
    if arguments.dry_run:
        if estimate := how_long(work.to_train, store):
            print(f"How long: {estimate}.", file=sys.stderr)
        complain(store)
        return 0
    shown = replace(places.conduct, show=workers.in_this_process)
    job = Job(replace(places.absolute(), conduct=shown), arguments.halve_batch, retry, again)
    failures = do_work(work, job, workers)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    for failed in work.failed:
        print(f"error: {failed.spec.label} failed before: {failed.reason}.", file=sys.stderr)
    if work.without_weights:
        print(f"error: {explain_missing_weights(work)}", file=sys.stderr)
    return 1 if failures or work.failed or work.without_weights else 0


def _show_to_wandb(tables: Sequence[BuiltTable], places: Places) -> None:
    if places.conduct.onlookers.wandb != "off":
        from anomaly_bench.tables.wandb_suite import publish_suite

        publish_suite(tables, places.conduct.onlookers, places.results)


def tables_command(arguments: Namespace) -> int:
    """`anomaly-bench tables`."""
    from anomaly_bench.bench.profiles import load_profile
    from anomaly_bench.tables.publish import build_all, write_table
    from anomaly_bench.tables.render import to_markdown
    from anomaly_bench.tables.suite import describe_suite, suite_runs

    places, store, asked, status = places_of(arguments), store_of(arguments), arguments.profile, 0
    if arguments.check:
        refuse_idle(arguments, "--check", "train", "dry_run", "profile")
        return _check_tables(store, places.data_root)
    places = watched(places, arguments, asked or "", {})
    if not (arguments.train or arguments.dry_run):
        refuse_idle(arguments, "tables alone", remedy="add --train")
    else:
        profile = load_profile(asked or "paper")
        categories, seeds = names_in(arguments.categories), seeds_in(arguments.seeds)
        suite = suite_runs(profile, places.data_root, categories=categories, seeds=seeds)
        places = watched(places, arguments, profile.name, suite)
        print(describe_suite(suite, store), file=sys.stderr)
        runs = list(dict.fromkeys(run for runs in suite.values() for run in runs))
        status = 0 if arguments.dry_run else _train(arguments, runs, places, store)
    if arguments.dry_run:
        complain(store)
        return 0
    tables = [built for tables in build_all(asked, store, places.data_root, peers=True) for built in tables]
    for built in tables:
        paths = write_table(built, store.results)
        print(to_markdown(built))
        print(f"{built.spec.file_name}: {', '.join(str(path) for path in paths)}", file=sys.stderr)
    _show_to_wandb(tables, places)
    complain(store)
    return status


def _check_tables(store: Store, data_root: Path) -> int:
    from anomaly_bench.tables.publish import stale_tables

    if not (store.runs.is_dir() or (store.results / "tables").is_dir()):
        raise UserError(f"{store.results} has neither runs nor tables; choose another --results.")
    stale = stale_tables(store, data_root)
    for path in stale:
        print(f"{path} is not what the records give; run `anomaly-bench tables` for its profile.", file=sys.stderr)
    complain(store)
    return 1 if stale or store.complaints else 0


def report_command(arguments: Namespace) -> int:
    """`anomaly-bench report`."""
    from anomaly_bench.tables.figures.draw import draw_figures
    from anomaly_bench.tables.index import Index
    from anomaly_bench.tables.publish import build_all, write_table
    from anomaly_bench.tables.report.write import write_report

    places, store = watched(places_of(arguments), arguments, "", {}), store_of(arguments)
    index, shown = Index.of_store(store), []
    for tables in build_all(arguments.profile, store, places.data_root, peers=False):
        shown += tables
        for built in tables:
            write_table(built, store.results)
        for sentence in draw_figures(tables, index, places, store) if any(built.records for built in tables) else []:
            print(sentence, file=sys.stderr)
    complain(store)
    if not store.runs.is_dir():
        print(f"warning: {store.results} has no runs, so the report has printed numbers alone.", file=sys.stderr)
    print(write_report(shown, store.results))
    _show_to_wandb(shown, places)
    return 0


def dashboard_command(arguments: Namespace) -> int:
    """`anomaly-bench dashboard`."""
    from anomaly_bench.tables.dashboard import check_dashboard, make_dashboard
    from anomaly_bench.tables.publish import build_all

    check_dashboard(arguments.wandb)
    store = store_of(arguments)
    built = build_all(arguments.profile, store, places_of(arguments).data_root, peers=True)
    complain(store)
    path = Path(arguments.out) if arguments.out else store.results / "wandb" / "dashboard.json"
    print("\n".join(make_dashboard(arguments.wandb, path, [table for tables in built for table in tables])))
    return 0


def list_command(arguments: Namespace) -> int:
    """`anomaly-bench list`."""
    from anomaly_bench.listing import lines

    if arguments.what not in LISTS:
        raise UserError(f"unknown list '{arguments.what}'{nearest(arguments.what, LISTS)}")
    store = store_of(arguments)
    for line in lines(arguments.what, store):
        print(line)
    if arguments.what == "runs" and not store.runs.is_dir():
        print(f"{store.results} has no runs.", file=sys.stderr)
    complain(store)
    return 0


def data_command(arguments: Namespace) -> int:
    """`anomaly-bench data check` and `anomaly-bench data fetch`."""
    return DATA_ACTIONS[arguments.action][1](arguments[arguments.action])


Commands = dict[str, tuple[Callable[[], ArgumentParser], Callable[[Namespace], int]]]
COMMANDS: Commands = {
    "run": (run_parser, run_command),
    "table": (table_parser, table_command),
    "tables": (tables_parser, tables_command),
    "report": (report_parser, report_command),
    "dashboard": (dashboard_parser, dashboard_command),
    "list": (list_parser, list_command),
    "data": (data_parser, data_command),
    "score": (score_parser, score_command),
    "predict": (predict_parser, predict_command),
    "export": (export_parser, export_command),
}
DATA_ACTIONS: Commands = {"check": (check_parser, check_command), "fetch": (fetch_parser, fetch_command)}

NEEDS_ANSWERS = ("table", "tables", "report", "dashboard", "list")  # about methods, and no more of PyTorch


def build_parser() -> ArgumentParser:
    """The whole command line."""
    parser = Parser(prog="anomaly-bench", version=__version__, description="Measured against printed: a benchmark "
                    "of knowledge-distillation anomaly detectors.")  # fmt: skip
    subcommands = parser.add_subcommands(dest="command")
    for name, (make, _) in COMMANDS.items():
        subparser = make()
        if name != "data":
            add_places(subparser)
        subcommands.add_subcommand(name, subparser, help=subparser.description)
        if name == "data":  # jsonargparse wants the levels from the outside in
            actions = subparser.add_subcommands(dest="action")
            for action, (make_leaf, _) in DATA_ACTIONS.items():
                actions.add_subcommand(action, leaf := make_leaf(), help=leaf.description)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin for long while they wait train several times slower on a machine that others use too; threads
    # that never do, twice as slow through the small steps of a scan. GNU's OpenMP (PyTorch's on Linux) can do a little.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000")}
    try:
        refuse_unknown(words, list(COMMANDS), "command")
        if words[0] == "data":
            refuse_unknown(words[1:], list(DATA_ACTIONS), "action of data")
        arguments: Any = build_parser().parse_args(words)
        command = arguments[arguments.command]
        with recalling(cache_of(command) if arguments.command in NEEDS_ANSWERS else None):
            return COMMANDS[arguments.command][1](command)
    except UserError as error:
        if "--debug" in words:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `anomaly-bench list runs | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept.", file=sys.stderr)
        return 130
