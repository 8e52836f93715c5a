"""`anomaly-bench data check`: counts against the official ones, and every file that training would stumble over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anomaly_bench.data.base import AnomalyDataModule, Counts, Official
from anomaly_bench.data.images import open_image, parallel, read_mask
from anomaly_bench.data.layout import Sample, image_files
from anomaly_bench.errors import UserError


@dataclass(frozen=True)
class CategoryReport:
    """What one category's folder holds; `counts` is None where the category is not there at all."""

    category: str
    counts: Counts | None
    official: Official | None
    manifest_sha256: str | None = None
    image_sizes: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """One word or two for the table."""
        if self.counts is None:
            return "not here"
        if self.official is None:
            counted = "readable"
        elif self.counts == self.official.counts:
            counted = "complete"
        else:
            counted = self._difference(self.official.counts, self.counts)
        plural = "s" if len(self.problems) > 1 else ""
        return f"{counted}; {len(self.problems)} PROBLEM{plural.upper()}" if self.problems else counted

    @property
    def size_note(self) -> str:
        """`512x512 (official 900x900)`; a resized copy is usable, and a table that uses it says so."""
        text = ", ".join(f"{width}x{height}" for height, width in self.image_sizes)
        if self.official is None or not text or self.image_sizes == [self.official.image_size]:
            return text
        return f"{text} (official {self.official.image_size[1]}x{self.official.image_size[0]})"

    @staticmethod
    def _difference(official: Counts, counts: Counts) -> str:
        pairs = [(name, value, getattr(official, name)) for name, value in asdict(counts).items()]
        parts = [f"{name.replace('_', ' ')} {here} of {whole}" for name, here, whole in pairs if here != whole]
        more = any(here > whole for _, here, whole in pairs)
        return f"{'DIFFERENT' if more else 'INCOMPLETE'}: {', '.join(parts)}"

    @property
    def sound(self) -> bool:
        """Nothing to complain of: not here at all counts as sound."""
        return self.status in ("not here", "readable", "complete")

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"status": self.status}


def check_data_set(dataset: type[AnomalyDataModule], data_root: Path) -> list[CategoryReport]:
    """One report a category, official order.

    Raises:
        UserError: not one category is there.
    """
    names = dataset.category_names(data_root)
    reports = [_check_category(dataset, data_root, name) for name in names]
    if not any(report.counts for report in reports):
        if not names:
            raise UserError(f"no category folder with train/good in {data_root}; correct --data-root.")
        dataset.category_folder(data_root, names[0])  # says in the data set's own words where it belongs
    return reports


def _check_category(dataset: type[AnomalyDataModule], data_root: Path, category: str) -> CategoryReport:
    official = dataset.official(category)
    try:
        data = dataset(data_root, category)
    except UserError:
        return CategoryReport(category, None, official)
    samples = [*data.samples["train"], *data.samples["test"]]
    problems = [*_flat(parallel(_problems, samples)), *_orphan_masks(data)]
    for split in ("train", "test"):
        if not data.samples[split]:
            problems.append(f"{data.folder / split}: no images")
    if problems:  # neither sizes nor hashes of files that cannot be read
        return CategoryReport(category, data.counts(), official, problems=problems)
    return CategoryReport(category, data.counts(), official, data.manifest_sha256(), data.image_sizes())


def _flat(lists: Iterable[list[str]]) -> list[str]:
    return [entry for entries in lists for entry in entries]


def _problems(sample: Sample) -> list[str]:
    try:
        image = open_image(sample.path)
    except UserError as error:
        return [str(error)]
    if sample.mask is None:
        return []
    if not sample.mask.exists():
        return [f"{sample.path}: its mask {sample.mask} is missing"]
    try:
        mask = read_mask(sample.mask, size=8)
    except UserError as error:
        return [str(error)]
    found = []
    if mask.full_size != (image.height, image.width):
        sizes = "{1}x{0}, its image {3}x{2}".format(*mask.full_size, image.height, image.width)
        found.append(f"{sample.mask}: another size than its image ({sizes})")
    if not mask.binary:
        found.append(f"{sample.mask}: not binary (values between its lowest and highest)")
    if mask.share == 0:
        found.append(f"{sample.mask}: empty, though its image lies in a defect folder")
    return found


def _orphan_masks(data: AnomalyDataModule) -> list[str]:
    """Masks that no test image uses: mostly a misnamed file."""
    used = {sample.mask for sample in data.samples["test"]}
    folder = data.folder / "ground_truth"
    masks = [path for defect in sorted(folder.glob("*")) for path in image_files(defect)]
    return [f"{path}: belongs to no test image" for path in masks if path not in used]


def report_lines(reports: list[CategoryReport]) -> list[str]:
    """The table that `data check` prints, then every problem by name."""
    titles = ("category", "train", "test good", "test defective", "masks", "status", "image size")
    rows = [titles, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    problems = [f"{report.category}: {problem}" for report in reports for problem in report.problems]
    return [*lines, *(["", *problems] if problems else [])]


def _row(report: CategoryReport) -> tuple[str, ...]:
    """One line of the table; `1/12` is one of twelve official ones."""
    cells = []
    for name in ("train", "test_good", "test_defective", "masks"):
        here = str(getattr(report.counts, name)) if report.counts else "-"
        cells.append(f"{here}/{getattr(report.official.counts, name)}" if report.official else here)
    return (report.category, *cells, report.status, report.size_note)
