"""The command line: parses, calls, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from anomaly_bench import __version__
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.parsers import (
    LISTS,
    Parser,
    add_places,
    check_parser,
    data_parser,
    fetch_parser,
    list_parser,
    report_parser,
    run_parser,
    score_parser,
    table_parser,
    tables_parser,
)

if TYPE_CHECKING:
    from anomaly_bench.bench.execute import Places
    from anomaly_bench.bench.store import Store


def _places(arguments: Namespace) -> Places:
    from anomaly_bench.bench.execute import Places

    weights = Path(arguments.weights_dir) if arguments.weights_dir else None
    cache = None if arguments.cache_dir == "off" else Path(arguments.cache_dir)
    return Places(Path(arguments.data_root), Path(arguments.results), weights, arguments.allow_unverified_data, cache)


def run_command(arguments: Namespace) -> int:
    """`anomaly-bench run`."""
    from anomaly_bench.bench.profiles import load_profile
    from anomaly_bench.bench.resolve import parse_settings, resolve

    settings = parse_settings([setting for group in arguments.set for setting in group])
    profile = load_profile(arguments.profile)
    spec, evaluation = resolve(
        arguments.method, arguments.dataset, arguments.category, profile, seed=arguments.seed, settings=settings
    )
    from anomaly_bench.bench.execute import RunFailedError
    from anomaly_bench.bench.obtain import obtain

    store = _store(arguments)
    try:
        obtained = obtain(spec, evaluation, _places(arguments), store, again=arguments.again)
    except RunFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        _complain(store)
    entry = obtained.record.evaluations[evaluation.eval_id]
    print(f"run {spec.run_id} ({spec.title}): {obtained.how}")
    _print_metrics(entry["metrics"], entry["undefined"])
    return 0


def _print_metrics(metrics: dict[str, float | None], undefined: dict[str, str]) -> None:
    from anomaly_bench.metrics import METRIC_KEYS

    for name in METRIC_KEYS:
        value = metrics[name]
        print(f"  {name:<14}{'undefined: ' + undefined[name] if value is None else format(value, '.4f')}")


def _store(arguments: Namespace) -> Store:
    from anomaly_bench.bench.store import Store

    return Store(Path(arguments.results))


def _complain(store: Store) -> None:
    for complaint in store.complaints:
        print(f"warning: {complaint}", file=sys.stderr)


def table_command(arguments: Namespace) -> int:
    """`anomaly-bench table`."""
    from anomaly_bench.bench.profiles import load_profile
    from anomaly_bench.tables.index import Index
    from anomaly_bench.tables.plan import table_runs
    from anomaly_bench.tables.publish import build_by_name, profile_table, write_table
    from anomaly_bench.tables.render import to_markdown
    from anomaly_bench.tables.train import describe, do_work, sort_work

    profile, places, store = load_profile(arguments.profile), _places(arguments), _store(arguments)
    categories, seeds = _names(arguments.categories), _seeds(arguments.seeds)
    table = profile_table(arguments.table, profile, places.data_root)
    runs = table_runs(table, profile, places.data_root, categories=categories, seeds=seeds)
    failures: list[Exception] = []
    if arguments.dry_run or not arguments.no_train:
        work = sort_work(runs, places, store, asked_for=categories is not None)
        print(f"{table.name}, profile {profile.name}: {describe(work)}", file=sys.stderr)
        if arguments.dry_run:
            return 0
        failures = do_work(work, places, store)
    built = build_by_name(table.name, profile, Index.of_store(store), places.data_root)
    paths = write_table(built, places.results)
    _complain(store)
    print(to_markdown(built))
    print(f"written: {', '.join(str(path) for path in paths)}", file=sys.stderr)
    return _exit_status(failures)


def _exit_status(failures: list[Exception]) -> int:
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if any(isinstance(failure, UserError) for failure in failures):
        return 2
    return 1 if failures else 0


def _names(text: str | None) -> list[str] | None:
    names = None if text is None else [name.strip() for name in text.split(",") if name.strip()]
    if names == []:
        raise UserError("--categories names none; name some such as bottle,pill, or leave it out.")
    return names


def _seeds(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds takes whole numbers such as 0,1,2, not '{text}'.") from error


def tables_command(arguments: Namespace) -> int:
    """`anomaly-bench tables`."""
    from anomaly_bench.bench.profiles import load_profile
    from anomaly_bench.tables.index import Index
    from anomaly_bench.tables.publish import build_by_name, write_table
    from anomaly_bench.tables.render import to_markdown
    from anomaly_bench.tables.spec import table_names
    from anomaly_bench.tables.suite import describe_suite, suite_runs
    from anomaly_bench.tables.train import do_work, sort_work

    places, store = _places(arguments), _store(arguments)
    if arguments.check:
        return _check_tables(store, places.data_root)
    profile, failures = load_profile(arguments.profile), list[Exception]()
    if arguments.train or arguments.dry_run:
        categories, seeds = _names(arguments.categories), _seeds(arguments.seeds)
        suite = suite_runs(profile, places.data_root, categories=categories, seeds=seeds)
        print(describe_suite(suite, store), file=sys.stderr)
        if arguments.dry_run:
            return 0
        runs = list(dict.fromkeys(run for runs in suite.values() for run in runs))
        failures = do_work(sort_work(runs, places, store, asked_for=categories is not None), places, store)
    index = Index.of_store(store)
    for name in table_names():
        built = build_by_name(name, profile, index, places.data_root)
        paths = write_table(built, store.results)
        print(to_markdown(built))
        print(f"{name}: {', '.join(str(path) for path in paths)}", file=sys.stderr)
    _complain(store)
    return _exit_status(failures)


def _check_tables(store: Store, data_root: Path) -> int:
    from anomaly_bench.tables.publish import stale_tables

    stale = stale_tables(store, data_root)
    for path in stale:
        print(f"{path} is not what the records give; run `anomaly-bench tables` for its profile.", file=sys.stderr)
    _complain(store)
    return 1 if stale or store.complaints else 0


def report_command(arguments: Namespace) -> int:
    """`anomaly-bench report`."""
    from anomaly_bench.bench.profiles import PROFILES, load_profile
    from anomaly_bench.tables.figures.draw import draw_figures
    from anomaly_bench.tables.index import Index
    from anomaly_bench.tables.publish import build_by_name, write_table
    from anomaly_bench.tables.report.write import write_report
    from anomaly_bench.tables.spec import table_names

    places, store = _places(arguments), _store(arguments)
    asked = [load_profile(arguments.profile)] if arguments.profile else []
    index, shown = Index.of_store(store), []
    for profile in asked or [profile for profile in PROFILES.values() if profile.dataset is None]:
        tables = [build_by_name(name, profile, index, places.data_root) for name in table_names()]
        measured = any(built.records for built in tables)
        if asked or measured or profile.name == "paper":
            shown += tables
            for built in tables:
                write_table(built, store.results)
        for sentence in draw_figures(tables, index, places, store) if measured else []:
            print(sentence, file=sys.stderr)
    _complain(store)
    print(write_report(shown, store.results))
    return 0


def list_command(arguments: Namespace) -> int:
    """`anomaly-bench list`."""
    from anomaly_bench.listing import lines

    if arguments.what not in LISTS:
        raise UserError(f"unknown list '{arguments.what}'{nearest(arguments.what, LISTS)}")
    store = _store(arguments)
    for line in lines(arguments.what, store):
        print(line)
    _complain(store)
    return 0


def data_command(arguments: Namespace) -> int:
    """`anomaly-bench data check` and `anomaly-bench data fetch`."""
    return {"check": check_command, "fetch": fetch_command}[arguments.action](arguments[arguments.action])


def fetch_command(fetch: Namespace) -> int:
    """`anomaly-bench data fetch`."""
    from anomaly_bench.bench.catalog import load_dataset
    from anomaly_bench.data.fetch import fetch_data_set

    fetch_data_set(load_dataset(fetch.dataset), Path(fetch.data_root), url=fetch.url, sha256=fetch.sha256,
                   allow_unverified=fetch.allow_unverified_data, say=lambda line: print(line, flush=True))  # fmt: skip
    return 0


def check_command(check: Namespace) -> int:
    """`anomaly-bench data check`."""
    from anomaly_bench.bench.catalog import load_dataset
    from anomaly_bench.data.check import check_data_set, report_lines

    dataset = load_dataset(check.dataset)
    reports = check_data_set(dataset, Path(check.data_root), allow_unverified=check.allow_unverified_data)
    if check.json:
        print(json.dumps([report.as_json() for report in reports], indent=2))
    else:
        print("\n".join(report_lines(reports)))
    return 0 if all(report.sound for report in reports) else 1


def score_command(arguments: Namespace) -> int:
    """`anomaly-bench score`."""
    from anomaly_bench.bench.store import replace_text, to_text
    from anomaly_bench.score import score_folders

    scored = score_folders(Path(arguments.maps), Path(arguments.masks))
    if arguments.out is not None:
        try:
            replace_text(Path(arguments.out), to_text(scored))
        except OSError as error:
            raise UserError(f"cannot write {arguments.out} ({error.strerror}); choose another --out.") from error
    print(f"{scored['images']} images, {scored['anomalous_images']} of them anomalous")
    _print_metrics(scored, scored["undefined"])
    return 0


COMMANDS: dict[str, tuple[Callable[[], ArgumentParser], Callable[[Namespace], int]]] = {
    "run": (run_parser, run_command),
    "table": (table_parser, table_command),
    "tables": (tables_parser, tables_command),
    "report": (report_parser, report_command),
    "list": (list_parser, list_command),
    "data": (data_parser, data_command),
    "score": (score_parser, score_command),
}


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
            for action, leaf in (("check", check_parser()), ("fetch", fetch_parser())):
                actions.add_subcommand(action, leaf, help=leaf.description)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin for long while they wait train several times slower on a machine that others use too; threads
    # that never do, twice as slow through the small steps of a scan. GNU's OpenMP (PyTorch's on Linux) can do a little.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000")}
    try:
        if not words:
            raise UserError(f"no command; choose one of: {', '.join(COMMANDS)}.")
        if not words[0].startswith("-") and words[0] not in COMMANDS:
            raise UserError(f"unknown command '{words[0]}'{nearest(words[0], COMMANDS)}")
        arguments: Any = build_parser().parse_args(words)
        return COMMANDS[arguments.command][1](arguments[arguments.command])
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
