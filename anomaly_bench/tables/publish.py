"""Where tables are written: `<results>/tables/<profile>/<paper>/<table>.{md,csv,tex,html}`."""

from __future__ import annotations

import itertools
from pathlib import Path

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.bench.profiles import PROFILES, Profile
from anomaly_bench.bench.store import Store, replace_text
from anomaly_bench.errors import UserError
from anomaly_bench.tables.build import BuiltTable, Index, build_table
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.render import RENDERERS
from anomaly_bench.tables.spec import TableSpec, load_table, table_names


def profile_table(name: str, profile: Profile, data_root: Path) -> TableSpec:
    """The table by name, on the profile's data set."""
    stand_in = load_dataset(profile.dataset).category_names(data_root) if profile.dataset else []
    return load_table(name).for_profile(profile, stand_in)


def build_from_store(name: str, profile: Profile, store: Store, data_root: Path) -> BuiltTable:
    """The table as the store stands."""
    table = profile_table(name, profile, data_root)
    return build_table(table, profile, Index.of(store), load_printed(name), data_root)


def write_table(built: BuiltTable, results: Path) -> list[Path]:
    """All four writings; each file is replaced whole.

    Raises:
        UserError: the folder cannot be written to.
    """
    paths = []
    for suffix, render in RENDERERS.items():
        path = _path(results, built.profile, built.spec.name, suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, render(built))
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); choose another --results.") from error
        paths.append(path)
    return paths


def stale_tables(store: Store, data_root: Path) -> list[Path]:
    """Files below `<results>/tables` that are not what the records give, those of stand-in data left out."""
    committed = [profile for profile in PROFILES.values() if profile.dataset is None]
    stale = []
    for profile, name in itertools.product(committed, table_names()):
        for suffix, render in RENDERERS.items():
            path = _path(store.results, profile, name, suffix)
            if path.exists():
                built = build_from_store(name, profile, store, data_root)
                if render(built) != path.read_text(encoding="utf-8"):
                    stale.append(path)
    return stale


def _path(results: Path, profile: Profile, name: str, suffix: str) -> Path:
    return results / "tables" / profile.name / f"{name}.{suffix}"
