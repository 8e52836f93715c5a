"""What every command takes: one parser each, with its help."""

from __future__ import annotations

import os

from jsonargparse import ArgumentParser
from platformdirs import user_cache_dir

from anomaly_bench.words import Parser, any_number, any_whole_number, number_from, one_of, whole_number_from

LISTS = ("methods", "peers", "datasets", "tables", "runs")
KEPT = ("all", "maps", "scores")
LAUNCHERS = ("local", "ray", "slurm")  # those of bench.launch, which would have to import too much to say so here


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
                        help="keeps decoded images and more between calls (or ANOMALY_BENCH_CACHE)")  # fmt: skip


def add_feature_cache(parser: ArgumentParser) -> None:
    parser.add_argument("--no-feature-cache", action="store_true",
                        help="run the teacher in every epoch; slower, needs less memory, the same numbers")  # fmt: skip


def add_wandb(parser: ArgumentParser, what: str) -> None:
    parser.add_argument("--wandb", type=str, default="off", metavar="off|offline|online",
                        help=f"log {what} with Weights & Biases, offline into the results folder")  # fmt: skip


def add_onlookers(parser: ArgumentParser) -> None:
    add_wandb(parser, "trainings and tables")
    parser.add_argument("--logger", type=str, default="none", metavar="none|csv|tensorboard",
                        help="one of Lightning's loggers, into the results folder's logs/")  # fmt: skip


def add_keep(parser: ArgumentParser, default: str) -> None:
    parser.add_argument("--keep", type=one_of(KEPT), choices=KEPT, default=default,
                        help="of a finished run beside its record, scores and curves: its maps and the student's "
                        "weights (all), its maps, or nothing")  # fmt: skip
    parser.add_argument("--checkpoint-seconds", type=number_from(0), default=60.0,
                        help="least time between two checkpoints, from which a killed run goes on")  # fmt: skip


def add_workers(parser: ArgumentParser) -> None:
    parser.add_argument("--workers", type=whole_number_from(1), default=1,
                        help="runs at a time; from 2 on in processes of their own")  # fmt: skip
    parser.add_argument("--launcher", type=one_of(LAUNCHERS), choices=LAUNCHERS, default="local",
                        help="who runs them: on this machine, a Ray cluster or Slurm")  # fmt: skip
    parser.add_argument("--slurm", nargs="+", action="append", default=[], metavar="KEY=VALUE",
                        help="submitit's parameters, such as partition=gpu gpus_per_node=1 timeout_min=60")  # fmt: skip
    parser.add_argument("--retry-failed", action="store_true", help="do the runs that failed, and only these")
    parser.add_argument("--again", action="store_true",
                        help="train anew what is of other data or weights, or has lost its maps")  # fmt: skip
    parser.add_argument("--halve-batch", action="store_true",
                        help="try a run that ran out of memory once more at half its batch, and label it")  # fmt: skip


def run_parser() -> ArgumentParser:
    parser = Parser(description="Train and evaluate one run; a second call with the same spec trains nothing.")
    parser.add_argument("--method", type=str, required=True, help="see `anomaly-bench list methods`")
    parser.add_argument("--dataset", type=str, required=True, help="see `anomaly-bench list datasets`")
    parser.add_argument("--category", type=str, required=True, help="one category of the data set")
    parser.add_argument("--profile", type=str, default="paper", help="paper, lite or smoke")
    parser.add_argument("--seed", type=any_whole_number(), default=0, help="the run's seed")
    parser.add_argument("--set", nargs="+", action="append", default=[], metavar="KEY=VALUE",
                        help="option of the method, its protocol or its evaluation, such as epochs=50")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="train even if there is a record, and replace it")
    parser.add_argument("--devices", type=whole_number_from(1), default=1,
                        help="GPUs (without any: processes) that share each batch of this one run")  # fmt: skip
    add_keep(parser, "all")
    add_onlookers(parser)
    add_cache(parser)
    add_feature_cache(parser)
    add_allow_unverified(parser)
    return parser


def add_suite(parser: ArgumentParser) -> None:
    """What is trained, by whom, and how."""
    parser.add_argument("--categories", type=str | None, default=None, help="train only these, such as bottle,pill")
    parser.add_argument("--seeds", type=str | None, default=None, help="train only these, such as 0,1,2")
    add_workers(parser)
    add_keep(parser, "maps")
    add_onlookers(parser)
    add_cache(parser)
    add_feature_cache(parser)
    add_allow_unverified(parser)


def add_shown_profile(parser: ArgumentParser) -> None:
    parser.add_argument("--profile", type=str | None, default=None,
                        help="paper, lite or smoke; by default paper, and what else has runs")  # fmt: skip


def table_parser() -> ArgumentParser:
    parser = Parser(description="Train what a table needs, then build it.")
    parser.add_argument("table", type=str, metavar="TABLE", help="PAPER/tableN, see `anomaly-bench list tables`")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and stop")
    parser.add_argument("--no-train", action="store_true", help="build the table from the records there are")
    parser.add_argument("--peers", action="store_true",
                        help="measure methods that are only quoted and that anomalib has; kept apart")  # fmt: skip
    parser.add_argument("--profile", type=str, default="paper", help="paper, lite or smoke")
    add_suite(parser)
    return parser


def tables_parser() -> ArgumentParser:
    parser = Parser(description="Build every table from the records there are; trains nothing unless told to.")
    parser.add_argument("--train", action="store_true", help="train what the tables need, each run once, then build")
    parser.add_argument("--dry-run", action="store_true", help="count the runs that the tables need, and stop")
    parser.add_argument("--check", action="store_true",
                        help="leave tables as they are; exit 1 if one is not what the records give")  # fmt: skip
    add_shown_profile(parser)
    add_suite(parser)
    return parser


def report_parser() -> ArgumentParser:
    parser = Parser(description="One HTML page with all tables, figures and what does not reproduce; trains nothing.")
    add_shown_profile(parser)
    add_wandb(parser, "tables and figures")
    add_cache(parser)
    add_allow_unverified(parser)
    return parser


def dashboard_parser() -> ArgumentParser:
    parser = Parser(description="The W&B workspace and report over what --wandb logs: a file, or saved to W&B.")
    parser.add_argument("--wandb", type=str, default="offline", metavar="offline|online",
                        help="write the definitions to a file, or save them to W&B's server")  # fmt: skip
    parser.add_argument("--out", type=str | None, default=None,
                        help="the file; by default wandb/dashboard.json in the results folder")  # fmt: skip
    add_shown_profile(parser)
    add_cache(parser)
    return parser


def list_parser() -> ArgumentParser:
    parser = Parser(description="What there is.")
    parser.add_argument("what", type=str, metavar="WHAT", help=", ".join(LISTS))
    add_cache(parser)
    return parser


def data_parser() -> ArgumentParser:
    return Parser(description="Look after the data: `data check` finds bad files, `data fetch` downloads a data set.")


def check_parser() -> ArgumentParser:
    parser = Parser(description="Counts against the official ones, and every file that cannot be used; exit 1 where a "
                    "category that is there is not whole and sound. One that is not there at all is only listed: some "
                    "may be all that is wanted.")  # fmt: skip
    parser.add_argument("dataset", type=str, metavar="DATASET", help="see `anomaly-bench list datasets`")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_allow_unverified(parser)
    add_places(parser)
    return parser


def fetch_parser() -> ArgumentParser:
    parser = Parser(description="Download a data set from its publishers, check it and put it in place; resumes.")
    parser.add_argument("dataset", type=str, metavar="DATASET", help="see `anomaly-bench list datasets`")
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


def predict_parser() -> ArgumentParser:
    parser = Parser(description="Score images with a finished run, exactly as its own evaluation does: a CSV of scores "
                    "and heat-map overlays. A file that cannot be read stops no other; it is named at the end, and the "
                    "exit status is 2.")  # fmt: skip
    parser.add_argument("images", type=str, nargs="+", metavar="IMAGES",
                        help="image files, or folders, whose masks in ground_truth/ are left out")  # fmt: skip
    parser.add_argument("--run", type=str, required=True, help="the run's id, or its beginning")
    parser.add_argument("--out", type=str, required=True, help="folder for scores.csv and overlays/")
    parser.add_argument("--fpr", type=any_number(), default=None, metavar="RATE",
                        help="call images anomalous above a threshold that at most this share of the training images "
                        "exceeds, such as 0.01; optimistic, for the run was trained on them")  # fmt: skip
    parser.add_argument("--no-overlays", action="store_true", help="scores only")
    add_cache(parser)
    add_allow_unverified(parser)
    return parser


def export_parser() -> ArgumentParser:
    parser = Parser(description="Write a finished run as one ONNX file, uint8 RGB images in, anomaly maps and scores "
                    "out, once its maps are found equal to PyTorch's; else exit 1, and no file.")  # fmt: skip
    parser.add_argument("--run", type=str, required=True, help="the run's id, or its beginning")
    parser.add_argument("--out", type=str, required=True, help="the file, such as bottle.onnx")
    return parser
