"""`anomaly-bench data check`: counts against the official ones, and every file that training would stumble over."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.data.base import ONE_IMAGE_SIDE, AnomalyDataModule, Counts, Official
from anomaly_bench.data.images import parallel, read_mask
from anomaly_bench.data.layout import Sample, entries, image_files
from anomaly_bench.errors import UserError

EVALUATED_SIZE = 256  # pixels; what every paper uses, and so where masks are looked for that vanish


@dataclass(frozen=True)
class Findings:
    """Sentences about files: `problems` stop a run or hide a mistake, `notes` say what its numbers will lack."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        self.problems.extend(other.problems)
        self.notes.extend(other.notes)


@dataclass(frozen=True)
class CategoryReport:
    """What one category's folder holds; `counts` is None where the category is not there, or cannot be read at all.

    `verified` says whether the checksums are the official ones, None where there are none; `no_category` of a folder
    among the categories why it is none.
    """

    category: str
    counts: Counts | None
    official: Official | None
    verified: bool | None = None
    manifest_sha256: str | None = None
    image_sizes: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    no_category: str | None = None

    @property
    def status(self) -> str:
        """A few words for the table."""
        plural = "S" if len(self.problems) > 1 else ""
        problems = [f"{len(self.problems)} PROBLEM{plural}"] if self.problems else []
        return "; ".join(filter(None, [self._counted(), *problems]))

    def _counted(self) -> str:
        if self.counts is None:
            return "unreadable" if self.problems else "no category" if self.no_category else "not here"
        if self.official is None:
            return "" if self.problems else "readable"
        unverified = ["UNVERIFIED"] if self.verified is False else []
        if self.counts != self.official.counts:
            return ", ".join([*unverified, _difference(self.official.counts, self.counts)])
        complete = "complete" if self.official.confirmed else "complete as far as is known"
        return ", ".join(unverified or [complete])

    @property
    def size_note(self) -> str:
        """`512x512 (official 900x900)`; a resized copy is usable, and a table that uses it says so."""
        text = ", ".join(f"{width}x{height}" for height, width in self.image_sizes)
        if self.official is None or not text or self.image_sizes == [self.official.image_size]:
            return text
        return f"{text} (official {self.official.image_size[1]}x{self.official.image_size[0]})"

    @property
    def sound(self) -> bool:
        """Nothing to complain of: not here at all counts as sound, and so do notes."""
        counted = self.counts is None or self.official is None or self.counts == self.official.counts
        return counted and self.verified is not False and not self.problems

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"status": self.status}


def _difference(official: Counts, counts: Counts) -> str:
    pairs = [(name, value, getattr(official, name)) for name, value in asdict(counts).items()]
    parts = [f"{name.replace('_', ' ')} {here} of {whole}" for name, here, whole in pairs if here != whole]
    more = any(here > whole for _, here, whole in pairs)
    return f"{'DIFFERENT' if more else 'INCOMPLETE'}: {', '.join(parts)}"


def check_data_set(
    dataset: type[AnomalyDataModule], data_root: Path, *, allow_unverified: bool = False
) -> list[CategoryReport]:
    """One report a category, official order.

    Args:
        dataset: which.
        data_root: folder that holds the data sets.
        allow_unverified: files with other checksums than the official ones are no problem, only noted.

    Raises:
        UserError: not one category is there.
    """
    names = dataset.category_names(data_root)
    reports = [_check_category(dataset, data_root, name, allow_unverified) for name in names]
    passed_over = dataset.passed_over(data_root)
    if all(report.status == "not here" for report in reports):
        if not names:
            reasons = " ".join(passed_over.values())
            raise UserError(reasons or f"there is no category in {data_root}; correct --data-root.")
        dataset.category_folder(data_root, names[0])  # says in the data set's own words where it belongs
    return [*reports, *(CategoryReport(name, None, None, no_category=why) for name, why in passed_over.items())]


def _check_category(
    dataset: type[AnomalyDataModule], data_root: Path, category: str, allow_unverified: bool
) -> CategoryReport:
    official = dataset.official(category)
    try:
        data = dataset(data_root, category, allow_unverified=True)  # to count them all the same
    except UserError:
        return CategoryReport(category, None, official)
    try:
        counts, unofficial = data.counts(), data.unofficial_files()
        found = _findings(data, counts)
    except UserError as error:
        return CategoryReport(category, None, official, problems=[str(error)])
    if unofficial:
        sentence = f"{data.folder}: not the official files, by their checksums: {', '.join(p.name for p in unofficial)}"
        if allow_unverified:
            found.notes.append(sentence)
        else:
            found.problems.append(f"{sentence}; pass --allow-unverified-data to use them all the same")
    report = CategoryReport(
        category, counts, official, None if unofficial is None else not unofficial,
        problems=found.problems, notes=found.notes,
    )  # fmt: skip
    if found.problems:  # neither sizes nor hashes of files that cannot be read
        return report
    return replace(report, manifest_sha256=data.manifest_sha256(), image_sizes=data.image_sizes())


def _findings(data: AnomalyDataModule, counts: Counts) -> Findings:
    found = Findings()
    files = [*data.samples["train"], *data.samples["test"]] if data.images_are_files else []
    for findings in parallel(lambda sample: _look(data, sample), files):
        found.add(findings)
    found.problems.extend(_orphan_masks(data))
    for split in ("train", "test"):
        if not data.samples[split]:
            found.problems.append(f"{data.folder / split}: no images")
    if not found.problems:
        found.notes.extend(_lacks(data, counts, data.official(data.category)))
    return found


def _look(data: AnomalyDataModule, sample: Sample) -> Findings:
    """What there is to say of one image and its mask."""
    try:
        full_size = data.read_sample(sample, np.empty((8, 8, 3), dtype=np.uint8))
        if sample.mask is None or not data.has_masks:
            return Findings()
        if not sample.mask.exists():
            return Findings([f"{sample.path}: its mask {sample.mask} is missing"])
        mask = read_mask(sample.mask, EVALUATED_SIZE)
    except UserError as error:
        return Findings([str(error)])
    if mask.full_size != full_size:
        sizes = "{1}x{0}, its image {3}x{2}".format(*mask.full_size, *full_size)
        return Findings([f"{sample.mask}: another size than its image ({sizes})"])
    found = Findings()
    if not mask.binary:
        found.notes.append(f"{sample.mask}: not binary; above half of its highest value counts as anomalous")
    if mask.share == 0:
        found.notes.append(f"{sample.mask}: empty, though its image lies in a defect folder; the image stays defective")
    elif not mask.pixels.any():
        size = f"{EVALUATED_SIZE}x{EVALUATED_SIZE}"
        found.notes.append(f"{sample.mask}: vanishes when resized to {size}; the image stays defective")
    return found


def _orphan_masks(data: AnomalyDataModule) -> list[str]:
    """Masks that no test image uses: mostly a misnamed file."""
    used = {sample.mask for sample in data.samples["test"]}
    folders = entries(data.folder / "ground_truth", lambda path: path.is_dir())
    masks = [path for defect in folders for path in image_files(defect)]
    return [f"{path}: belongs to no test image" for path in masks if path not in used]


def _lacks(data: AnomalyDataModule, counts: Counts, official: Official | None) -> list[str]:
    """What numbers from sound data will lack."""
    lacks = {
        f"a single training image, which is enough at image_size={ONE_IMAGE_SIDE} or more only": (counts.train == 1),
        "no good test image, so image metrics will be undefined": counts.test_good == 0,
        "no defective test image, so all metrics will be undefined": counts.test_defective == 0,
        "no masks, so there will be image metrics only": not data.has_masks,
        "the counts compared with are not the publishers' own": official is not None and not official.confirmed,
    }
    return [f"{data.folder}: {sentence}" for sentence, holds in lacks.items() if holds]


def report_lines(reports: list[CategoryReport]) -> list[str]:
    """The table that `data check` prints, then every problem by name, then every note."""
    titles = ("category", "train", "test good", "test defective", "masks", "status", "image size")
    rows = [titles, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    problems = _by_sentence([(report.category, problem) for report in reports for problem in report.problems])
    others = [report.no_category for report in reports if report.no_category]
    notes = _by_sentence([(report.category, f"note: {note}") for report in reports for note in report.notes])
    notes += [f"note: {sentence}" for sentence in others]
    return [*lines, *(["", *problems] if problems else []), *(["", *notes] if notes else [])]


def _by_sentence(said: list[tuple[str, str]]) -> list[str]:
    """One line a sentence, with all categories of which it is said: some share their files."""
    categories: dict[str, list[str]] = {}
    for category, sentence in said:
        categories.setdefault(sentence, []).append(category)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in categories.items()]


def _row(report: CategoryReport) -> tuple[str, ...]:
    """One line of the table; `1/12` is one of twelve official ones."""
    cells = []
    for name in ("train", "test_good", "test_defective", "masks"):
        here = str(getattr(report.counts, name)) if report.counts else "-"
        cells.append(f"{here}/{getattr(report.official.counts, name)}" if report.official else here)
    return (report.category, *cells, report.status, report.size_note)
