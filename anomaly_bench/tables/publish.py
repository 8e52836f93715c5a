"""Where tables are written: `<results>/tables/<profile>/<paper>/<table>.{md,csv,tex,html}`."""

from __future__ import annotations

from pathlib import Path

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.bench.profiles import Profile, load_profile
from anomaly_bench.bench.store import Store, replace_text
from anomaly_bench.errors import UserError
from anomaly_bench.tables.build import BuiltTable, Index, build_table
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.render import RENDERERS
from anomaly_bench.tables.spec import TableSpec, load_table


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
        path = results / "tables" / built.profile.name / f"{built.spec.name}.{suffix}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, render(built))
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); choose another --results.") from error
        paths.append(path)
    return paths


def stale_tables(store: Store, data_root: Path) -> list[Path]:
    """Files below `<results>/tables` that are not what the records give, smoke tables left out."""
    stale = []
    for path in sorted((store.results / "tables").glob("*/*/*.*")):
        profile = load_profile(path.parts[-3])
        if profile.dataset is None and path.suffix[1:] in RENDERERS:
            built = build_from_store(f"{path.parts[-2]}/{path.stem}", profile, store, data_root)
            if RENDERERS[path.suffix[1:]](built) != path.read_text(encoding="utf-8"):
                stale.append(path)
    return stale
