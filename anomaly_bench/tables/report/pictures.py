"""Figures on the page: `<results>/figures/<profile>/<paper>/<table>[-anything].svg|png` belong to that table, all
others to the profile.

An SVG is put into the page, as an image: its ids are then its own and its scripts dead. A PNG shows images of a data
set and stays beside the page, which loads it when it is scrolled to.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from anomaly_bench.errors import UserError
from anomaly_bench.tables.report.markup import Html, element, fold, fragment

Pictures = Mapping[str, str]  # the address of each by its path below <results>/figures/, sorted
SUFFIXES = (".svg", ".png")


def find_pictures(results: Path) -> Pictures:
    """Every figure below `<results>/figures`; raises UserError where one cannot be read."""
    folder = results / "figures"
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    try:
        return {path.relative_to(folder).as_posix(): _address(path, folder) for path in files}
    except OSError as error:
        raise UserError(f"a figure in {folder} cannot be read ({error.strerror}); delete it.") from error


def _address(path: Path, folder: Path) -> str:
    if path.suffix == ".png":
        return _linked(path.relative_to(folder).as_posix())
    return f"data:image/svg+xml,{quote(path.read_bytes(), safe=' /:;,=?@!$&()*+')}"


def _linked(name: str) -> str:
    return quote(f"../figures/{name}")


def of_table(pictures: Pictures, profile: str, table: str) -> Pictures:
    return {name: address for name, address in pictures.items() if _belongs(name, profile, table)}


def _belongs(name: str, profile: str, table: str) -> bool:
    stem = name.rpartition(".")[0]
    return stem == f"{profile}/{table}" or stem.startswith(f"{profile}/{table}-")


def table_figures(pictures: Pictures) -> Html:
    return fragment(_figure(name, address) for name, address in pictures.items())


def gallery(pictures: Pictures) -> Html:
    """Figures that belong to no table, folder by folder."""
    groups = [(folder, list(names)) for folder, names in groupby(pictures, key=lambda name: name.rpartition("/")[0])]
    return fragment(
        fold(f"{folder}: {len(names)}", *(_figure(name, pictures[name]) for name in names), class_="gallery")
        for folder, names in groups
    )


def _figure(name: str, address: str) -> Html:
    caption = name.rpartition(".")[0]
    image = element("img", src=address, alt=f"figure {caption}", loading="lazy", decoding="async")
    return element("figure", element("a", image, href=_linked(name)), element("figcaption", caption))
