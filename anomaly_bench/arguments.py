"""What the arguments that all commands share mean: places, onlookers, the store."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from anomaly_bench.errors import UserError

if TYPE_CHECKING:
    from anomaly_bench.bench.places import Places
    from anomaly_bench.bench.spec import PlannedRun
    from anomaly_bench.bench.store import Store


# Options of a suite that mean nothing where nothing is trained; workers and launcher, which make passes on, are let be.
OF_TRAINING = ("categories", "seeds", "retry_failed", "again", "halve_batch", "slurm")


def refuse_idle(arguments: Namespace, beside: str, *more: str, remedy: str = "leave it out") -> None:
    """Raise UserError for an option of training, or one of `more`, that is given and would change nothing."""
    for name in (*more, *OF_TRAINING):
        if arguments[name]:
            raise UserError(f"--{name.replace('_', '-')} has no effect with {beside}; {remedy}.")


def names_in(text: str | None) -> list[str] | None:
    """`--categories`, None where all are meant; raises UserError where it names none."""
    names = None if text is None else [name.strip() for name in text.split(",") if name.strip()]
    if names == []:
        raise UserError("--categories names none; name some such as bottle,pill, or leave it out.")
    return names


def seeds_in(text: str | None) -> list[int] | None:
    """`--seeds`, None where all are meant; raises UserError for anything but whole numbers."""
    try:
        return None if text is None else [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds takes whole numbers such as 0,1,2, not '{text}'.") from error


def results_of(arguments: Namespace) -> Path:
    """The results folder; raises UserError for an empty name, which would be the working directory, and for a file."""
    if not arguments.results:
        raise UserError("--results is empty; name a folder, or leave it out.")
    results = Path(arguments.results)
    if results.is_file():
        raise UserError(f"results folder {results} is a file; name a folder by --results.")
    return results


def cache_of(arguments: Namespace) -> Path | None:
    """The cache folder, None for none."""
    cache = arguments.get("cache_dir", "off")
    return None if cache == "off" else Path(cache)


def places_of(arguments: Namespace) -> Places:
    """Where things are; what a command does not take is as by default."""
    from anomaly_bench.bench.places import Conduct, Places

    if not arguments.data_root:
        raise UserError("--data-root is empty; name a folder, or leave it out.")
    weights = Path(arguments.weights_dir) if arguments.weights_dir else None
    named = {field.name: arguments[field.name] for field in fields(Conduct) if field.name in arguments}
    named |= {"feature_cache": not arguments.no_feature_cache} if "no_feature_cache" in arguments else {}
    return Places(
        Path(arguments.data_root),
        results_of(arguments),
        weights,
        arguments.get("allow_unverified_data", False),
        cache_of(arguments),
        Conduct(**named),
    )


def watched(places: Places, arguments: Namespace, profile: str, tables: Mapping[str, Sequence[PlannedRun]]) -> Places:
    """With the onlookers asked for; a run that several tables need is in the first one's group."""
    from anomaly_bench.bench.onlookers import Onlookers

    groups = {run.spec.run_id: name for name in reversed(list(tables)) for run in tables[name]}
    onlookers = Onlookers(arguments.wandb, arguments.get("logger", "none"), profile, groups)
    onlookers.check()
    return replace(places, conduct=replace(places.conduct, onlookers=onlookers))


def store_of(arguments: Namespace) -> Store:
    """The store of runs in the results folder."""
    from anomaly_bench.bench.store import Store

    return Store(results_of(arguments))


def complain(store: Store) -> None:
    """Say what the store could not read."""
    for complaint in store.complaints:
        print(f"warning: {complaint}", file=sys.stderr)
