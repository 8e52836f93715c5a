"""Where tables are written: `<results>/tables/<profile>/<paper>/<table>.{md,csv,tex,html}`."""

from __future__ import annotations

import itertools
from pathlib import Path

from anomaly_bench.bench.profiles import PROFILES, Profile, load_profile
from anomaly_bench.bench.resolve import category_names
from anomaly_bench.bench.store import Store
from anomaly_bench.bench.texts import replace_text
from anomaly_bench.errors import UserError
from anomaly_bench.tables.build import BuiltTable, build_table
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.peers import with_peers
from anomaly_bench.tables.printed import load_printed
from anomaly_bench.tables.render import RENDERERS
from anomaly_bench.tables.spec import TableSpec, load_table, table_names
from anomaly_bench.tables.stand_in import on_stand_in


def profile_table(name: str, profile: Profile, data_root: Path, *, peers: bool = False) -> TableSpec:
    """The table by name, on the profile's data set, its peers measured or only quoted."""
    table = with_peers(load_table(name)) if peers else load_table(name)
    if profile.dataset is None:
        return table
    categories = profile.categories or category_names(profile.dataset, data_root)
    return on_stand_in(table, profile.dataset, categories)


def build_by_name(name: str, profile: Profile, index: Index, data_root: Path, *, peers: bool = False) -> BuiltTable:
    """The table as the store stands."""
    table = profile_table(name, profile, data_root, peers=peers)
    return build_table(table, profile, index, load_printed(name), data_root)


def build_all(asked: str | None, store: Store, data_root: Path, *, peers: bool) -> list[list[BuiltTable]]:
    """Every table, profile by profile: of the one asked for, or of `paper` and what else on real data has runs.

    Args:
        asked: name of a profile, or None.
        store: where records are.
        data_root: where data are.
        peers: also with their peers, those that were written so before.

    Raises:
        UserError: nobody knows the profile.
    """
    index = Index.of_store(store)
    profiles = [load_profile(asked)] if asked else [one for one in PROFILES.values() if one.dataset is None]
    built = [
        [
            build_by_name(name, profile, index, data_root, peers=with_peers_too)
            for name, with_peers_too in written_tables(profile, store.results)
            if peers or not with_peers_too
        ]
        for profile in profiles
    ]
    return [
        tables
        for profile, tables in zip(profiles, built, strict=True)
        if asked or profile.name == "paper" or any(table.records for table in tables)
    ]


def write_table(built: BuiltTable, results: Path) -> list[Path]:
    """All four writings; each file is replaced whole.

    Raises:
        UserError: the folder cannot be written to.
    """
    paths = []
    for suffix, render in RENDERERS.items():
        path = _path(results, built.profile, built.spec.file_name, suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, render(built))
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); choose another --results.") from error
        paths.append(path)
    return paths


def written_tables(profile: Profile, results: Path) -> list[tuple[str, bool]]:
    """Every table by name, and once more, marked True, where its writing with peers is there to be kept up to date."""
    with_peers_too = {name for name in table_names() if _path(results, profile, f"{name}-peers", "md").exists()}
    return [(name, peers) for name in table_names() for peers in (False, True) if not peers or name in with_peers_too]


def stale_tables(store: Store, data_root: Path) -> list[Path]:
    """Files below `<results>/tables` that are not what the records give, those of stand-in data left out."""
    committed = [profile for profile in PROFILES.values() if profile.dataset is None]
    index, stale = Index.of_store(store), []
    for profile, name, peers in itertools.product(committed, table_names(), (False, True)):
        file_name = f"{name}-peers" if peers else name
        paths = {suffix: _path(store.results, profile, file_name, suffix) for suffix in RENDERERS}
        there = {suffix: path for suffix, path in paths.items() if path.exists()}
        if there:
            built = build_by_name(name, profile, index, data_root, peers=peers)
            stale += [path for suffix, path in there.items() if RENDERERS[suffix](built) != _text(path)]
    return stale


def _text(path: Path) -> str | None:
    """None for what is no text file, which is no table either."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _path(results: Path, profile: Profile, name: str, suffix: str) -> Path:
    return results / "tables" / profile.name / f"{name}.{suffix}"
