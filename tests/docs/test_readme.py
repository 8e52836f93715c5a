"""The README and the other pages: commands that exist, options that parse, lists that are whole, links that lead."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from anomaly_bench.bench.catalog import dataset_names, load_method, method_names
from anomaly_bench.bench.profiles import PROFILES, load_profile
from anomaly_bench.bench.resolve import option_defaults, parse_settings, resolve
from anomaly_bench.cli import COMMANDS, build_parser
from anomaly_bench.parsers import LISTS
from anomaly_bench.tables.spec import load_table, table_names
from tests.docs.pages import PAGES, ROOT, in_code, sections, table_rows, typed_lines

README = ROOT / "README.md"
PROGRAM = ("anomaly-bench", ".venv/bin/anomaly-bench")
LEFT_OUT = {"run": "--method rd --dataset mvtec --category bottle", "table": "fmm_scsatt/table1"}


def written(page: Path) -> list[str]:
    """All that is written as a command, in lines of its own or in passing."""
    text = page.read_text(encoding="utf-8")
    return [*typed_lines(text), *in_code(text.replace("\\|", "|"))]


def spelled_out(command: str) -> list[str]:
    """`list methods|tables` as two commands, `run ...` in full, without the brackets of what may be left out."""
    words = re.sub(r"\[(--[^]]*)\]", r"\1", command).split()
    if "..." in words:
        words = [LEFT_OUT[words[0]] if word == "..." else word for word in words]
    choices = next((word for word in words if "|" in word), "")
    return [" ".join(choice if word == choices else word for word in words) for choice in (choices or "|").split("|")]


def calls() -> list[list[str]]:
    """The words of every command line that a page gives; one of the README's table stands without the program."""
    commands = [cell for row in table_rows(sections(README)["Commands"]) for cell in in_code(row[0])]
    for page in PAGES:
        for text in written(page):
            program, _, rest = text.partition(" ")
            if program in PROGRAM and rest and not rest.startswith(("COMMAND", "--")):
                commands.append(rest)
    return [shlex.split(one) for command in dict.fromkeys(commands) for one in dict.fromkeys(spelled_out(command))]


@pytest.mark.parametrize("words", calls(), ids=" ".join)
def test_a_command_parses_and_its_names_exist(words: list[str]) -> None:
    arguments = build_parser().parse_args(words)
    own = arguments[arguments.command]
    assert own.get("profile") is None or load_profile(own.profile)
    if arguments.command == "table" and "examples/" not in own.table:
        assert own.table in table_names() or own.table.partition("/")[0] in EXAMPLES
    if arguments.command == "run" and {own.method, own.dataset}.isdisjoint(EXAMPLES):
        settings = parse_settings([setting for group in own.set for setting in group])
        resolve(own.method, own.dataset, own.category, load_profile(own.profile), settings=settings)


EXAMPLES = {path.stem for path in (ROOT / "examples").glob("*.py")}


def test_the_readme_has_every_command_and_no_other() -> None:
    rows = table_rows(sections(README)["Commands"])
    assert {in_code(row[0])[0].split()[0] for row in rows} == set(COMMANDS)


def test_the_readme_has_every_list() -> None:
    (row,) = [row for row in table_rows(sections(README)["Commands"]) if row[0].startswith("`list ")]
    assert set(in_code(row[0])[0].removeprefix("list ").split("|")) == set(LISTS)


def targets(page: Path) -> set[str]:
    """What `make` is told to make."""
    named = (text.split()[1:] for text in written(page) if text.split()[:1] == ["make"])
    return {word for words in named for word in words if re.fullmatch(r"[a-z][a-z0-9-]*", word)}


def made_from(row: list[str]) -> list[str]:
    """The targets of a row of the README's tables: `table1` ... `table7` are seven of them."""
    names = in_code(row[0])
    if "..." not in row[0]:
        return names
    first = re.fullmatch(r"(.*?)(\d+)", names[0])
    last = re.fullmatch(r"(.*?)(\d+)", names[1])
    assert first is not None
    assert last is not None
    paper = first[1].removesuffix("table")
    return [f"{paper}table{number}" for number in range(int(first[2]), int(last[2]) + 1)] + names[2:]


def test_every_target_can_be_made(tmp_path: Path) -> None:
    rows = table_rows(sections(README)["Tables"])
    from_tables = [name for row in rows for name in made_from(row)]
    tables = {name.replace("_", "-").replace("/", "-").removeprefix("fmm-scsatt-") for name in table_names()}
    assert tables <= set(from_tables)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    named = {*from_tables, *(target for page in PAGES for target in targets(page))}
    named = {name for name in named if not any(name.startswith(one.replace("_", "-")) for one in EXAMPLES)}
    assert len(named) > len(tables)
    subprocess.run(["make", "--dry-run", *sorted(named)], cwd=tmp_path, check=True, capture_output=True)


def test_its_lists_are_those_of_the_folders() -> None:
    methods = {in_code(row[0])[0]: in_code(row[2]) for row in table_rows(sections(README)["Methods"])}
    assert set(methods) == set(method_names())
    for method, options in methods.items():
        known = {*option_defaults(load_method(method)), "teacher", "student", "background", "batch_size"}
        assert set(options) <= known, method
    data = [in_code(row[0])[0] for row in table_rows(sections(README)["Data and weights"])]
    assert sorted(data) == dataset_names()
    profiles = [in_code(row[0])[0] for row in table_rows(sections(README)["Profiles"])]
    assert profiles == list(PROFILES)


def test_it_counts_the_tables_of_every_paper() -> None:
    counted = {}
    for row in table_rows(sections(README)["Which paper reproduces?"]):
        paper = Path(re.findall(r"\((.+?)\)", row[2])[0]).stem
        counted[paper] = [int(number) for number in re.findall(r"(\d+) (?:tables?|sweeps?)", row[1])]
    for paper in counted:
        specs = [load_table(name) for name in table_names() if name.startswith(f"{paper}/")]
        sweeps = sum("/fig" in spec.name for spec in specs)
        assert counted[paper] == [count for count in (len(specs) - sweeps, sweeps) if count]
    assert sum(map(sum, counted.values())) == len(table_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.png")), ids=lambda path: path.name)
def test_a_picture_is_small_and_shown(picture: Path) -> None:
    assert picture.stat().st_size < 100_000
    assert f"(docs/{picture.name})" in README.read_text(encoding="utf-8")
