"""What every command takes: one parser each, with its help."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser
from platformdirs import user_cache_dir

LISTS = ("methods", "datasets", "tables", "runs")


class Parser(ArgumentParser):
    """Says what is wrong in one sentence and exits with 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sentence = " ".join(message.split()).rstrip(".")
        print(f"error: {sentence}; see {self.prog} --help.", file=sys.stderr)
        sys.exit(2)


def add_places(parser: ArgumentParser) -> None:
    parser.add_argument("--data-root", type=str, default=os.environ.get("ANOMALY_BENCH_DATA", "./datasets"),
                        help="folder that holds the data sets (or ANOMALY_BENCH_DATA)")  # fmt: skip
    parser.add_argument("--results", type=str, default=os.environ.get("ANOMALY_BENCH_RESULTS", "./results"),
                        help="folder for runs and tables (or ANOMALY_BENCH_RESULTS)")  # fmt: skip
    parser.add_argument("--weights-dir", type=str | None, default=os.environ.get("ANOMALY_BENCH_WEIGHTS"),
                        help="folder with files of pretrained weights (or ANOMALY_BENCH_WEIGHTS)")  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_allow_unverified(parser: ArgumentParser) -> None:
    parser.add_argument("--allow-unverified-data", action="store_true",
                        help="use files that differ from the official ones by their checksums")  # fmt: skip


def add_cache(parser: ArgumentParser) -> None:
    place = os.environ.get("ANOMALY_BENCH_CACHE", user_cache_dir("anomaly_bench"))
    parser.add_argument("--cache-dir", type=str, default=place, metavar="DIR|off",
                        help="folder that keeps decoded images between runs (or ANOMALY_BENCH_CACHE)")  # fmt: skip


def run_parser() -> ArgumentParser:
    parser = Parser(description="Train and evaluate one run; a second call with the same spec trains nothing.")
    parser.add_argument("--method", type=str, required=True, help="see `anomaly-bench list methods`")
    parser.add_argument("--dataset", type=str, required=True, help="see `anomaly-bench list datasets`")
    parser.add_argument("--category", type=str, required=True, help="one category of the data set")
    parser.add_argument("--profile", type=str, default="paper", help="paper, lite or smoke")
    parser.add_argument("--seed", type=int, default=0, help="the run's seed")
    parser.add_argument("--set", type=str, nargs="+", action="append", default=[], metavar="KEY=VALUE",
                        help="option of the method, its protocol or its evaluation, such as epochs=50")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="train even if there is a record, and replace it")
    add_cache(parser)
    add_allow_unverified(parser)
    return parser


def table_parser() -> ArgumentParser:
    parser = Parser(description="Train what a table needs, then build it.")
    parser.add_argument("table", type=str, help="PAPER/tableN, see `anomaly-bench list tables`")
    parser.add_argument("--profile", type=str, default="paper", help="paper, lite or smoke")
    parser.add_argument("--categories", type=str | None, default=None, help="train only these, such as bottle,pill")
    parser.add_argument("--seeds", type=str | None, default=None, help="train only these, such as 0,1,2")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and stop")
    parser.add_argument("--no-train", action="store_true", help="build the table from the records there are")
    add_cache(parser)
    add_allow_unverified(parser)
    return parser


def tables_parser() -> ArgumentParser:
    parser = Parser(description="Build every table from the records there are; trains nothing unless told to.")
    parser.add_argument("--profile", type=str, default="paper", help="paper, lite or smoke")
    parser.add_argument("--train", action="store_true", help="train what the tables need, each run once, then build")
    parser.add_argument("--dry-run", action="store_true", help="count the runs that the tables need, and stop")
    parser.add_argument("--categories", type=str | None, default=None, help="train only these, such as bottle,pill")
    parser.add_argument("--seeds", type=str | None, default=None, help="train only these, such as 0,1,2")
    parser.add_argument("--check", action="store_true",
                        help="write nothing; exit 1 if a table on disk is not what the records give")  # fmt: skip
    add_cache(parser)
    add_allow_unverified(parser)
    return parser


def report_parser() -> ArgumentParser:
    parser = Parser(description="One HTML page with all tables, figures and what does not reproduce; trains nothing.")
    parser.add_argument("--profile", type=str | None, default=None,
                        help="paper, lite or smoke; by default paper, and lite where it has runs")  # fmt: skip
    add_cache(parser)
    add_allow_unverified(parser)
    return parser


def list_parser() -> ArgumentParser:
    parser = Parser(description="What there is.")
    parser.add_argument("what", type=str, help=", ".join(LISTS))
    return parser


def data_parser() -> ArgumentParser:
    return Parser(description="Look after the data: `data check` finds bad files, `data fetch` downloads a data set.")


def check_parser() -> ArgumentParser:
    parser = Parser(description="Counts against the official ones, and every file that cannot be used; exit 1 if any.")
    parser.add_argument("dataset", type=str, help="see `anomaly-bench list datasets`")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_allow_unverified(parser)
    add_places(parser)
    return parser


def fetch_parser() -> ArgumentParser:
    parser = Parser(description="Download a data set from its publishers, check it and put it in place; resumes.")
    parser.add_argument("dataset", type=str, help="see `anomaly-bench list datasets`")
    parser.add_argument("--url", type=str | None, default=None, help="another address of the archive; file:// too")
    parser.add_argument("--sha256", type=str | None, default=None, help="the checksum that the archive must have")
    add_allow_unverified(parser)
    add_places(parser)
    return parser


def score_parser() -> ArgumentParser:
    parser = Parser(description="All metrics of anomaly maps made by any program.")
    parser.add_argument("--maps", type=str, required=True, help="folder of .npy, .tiff or .png maps")
    parser.add_argument("--masks", type=str, required=True,
                        help="masks by the same relative paths; an image without one is normal")  # fmt: skip
    parser.add_argument("--out", type=str | None, default=None, help="write the metrics to this JSON file")
    return parser
