"""What the arguments that all commands share mean: places, onlookers, the store."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

if TYPE_CHECKING:
    from anomaly_bench.bench.places import Places
    from anomaly_bench.bench.spec import PlannedRun
    from anomaly_bench.bench.store import Store


def places_of(arguments: Namespace) -> Places:
    """Where things are; what a command does not take is as by default."""
    from anomaly_bench.bench.places import Conduct, Places

    weights = Path(arguments.weights_dir) if arguments.weights_dir else None
    cache = arguments.get("cache_dir", "off")
    named = {field.name: arguments[field.name] for field in fields(Conduct) if field.name in arguments}
    return Places(
        Path(arguments.data_root),
        Path(arguments.results),
        weights,
        arguments.get("allow_unverified_data", False),
        None if cache == "off" else Path(cache),
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

    return Store(Path(arguments.results))


def complain(store: Store) -> None:
    """Say what the store could not read."""
    for complaint in store.complaints:
        print(f"warning: {complaint}", file=sys.stderr)
