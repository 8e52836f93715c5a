"""Heat-map sheets: a row an image, columns input, ground truth and the map of every method.

Maps        A run's kept maps through the fusion and the smoothing of its own evaluation: what is shown is what the
            pixel metrics rank. The score under a map is the one that the image metrics rank.
Colours     Each method's maps are in a unit of their own, so that each has a scale of its own, one for all images of
            the sheet: a scale for each image would let a good image glow like a defective one. It begins at the 1st
            percentile of the pixels of all good test images and ends at the maximum of the maps shown.
Images      Anomalous ones, every defect type in turn, and a good one as the last.

A sheet holds images of the data set, whose licence is not ours: `heat_map_sheet` keeps it out of git.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.bench.evaluate import StageMaps, fuse_maps
from anomaly_bench.bench.execute import MAPS, open_data
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.spec import EvalSpec, RunSpec, as_set
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.data.subset import stratified
from anomaly_bench.errors import UserError
from anomaly_bench.tables.figures.sheet_page import MapColumn, ShownImages, sheet_figure
from anomaly_bench.tables.figures.style import explained, save
from anomaly_bench.tables.scores import stored_scores

LOW_PERCENTILE = 1.0


@dataclass(frozen=True)
class Sheet:
    """What came of it.

    Attributes:
        path: the file, or None where no run could be shown.
        left_out: by a run's label, why it is not shown.
    """

    path: Path | None
    left_out: dict[str, str]


# Git keeps records and scores, so that a clone has no maps.
GONE = "the runs' maps are gone or broken (git keeps none; only training a run anew makes them)"


class _LeftOutError(Exception):
    """Why a run cannot be shown."""


def heat_map_sheet(records: Sequence[Record], places: Places, store: Store, path: Path, *, images: int = 6) -> Sheet:
    """Write the maps of several methods side by side, as a PNG that git ignores.

    Args:
        records: one a method, of one category, seed and image size.
        places: where the data are.
        store: where the maps are.
        path: the file, `*.png`.
        images: how many images are shown, at most.

    Raises:
        UserError: the data are not at hand, the folder cannot be written to, or `images` is below 2.
    """
    if images < 2:
        raise UserError(f"a sheet shows an anomalous image and a good one; ask for 2 images or more, not {images}.")
    spec = _common_spec(records)
    if not any((store.folder(record.spec.run_id) / MAPS).exists() for record in records):
        return Sheet(None, dict.fromkeys(_labels(records), GONE))  # before anything is decoded
    data = open_data(spec, places)
    data.setup()
    shown = choose_images(data, images)
    columns, left_out = _columns(records, shown, data, store)
    if not columns:
        return Sheet(None, left_out)
    figure = sheet_figure(f"{spec.dataset}/{spec.category}, seed {spec.seed}", shown, columns)
    _keep_out_of_git(path)
    return Sheet(save(figure, path), left_out)


def _common_spec(records: Sequence[Record]) -> RunSpec:
    """Any of the specs: they agree in all that decides which images are shown."""
    specs = [record.spec for record in records]
    subjects = {(s.dataset, s.data_revision, s.category, s.seed, s.protocol.image_size, s.test_images) for s in specs}
    if len(subjects) != 1:
        raise ValueError(f"a sheet is of one category, seed and image size, not of {sorted(map(str, subjects))}")
    return specs[0]


def choose_images(data: AnomalyDataModule, count: int) -> ShownImages:
    """At most `count` test images: anomalous ones of every defect type in turn, then one good one."""
    assert data.ground_truth is not None
    assert data.test_pixels is not None
    samples, masks = data.ground_truth.samples, data.ground_truth.masks
    good = stratified([sample for sample in samples if not sample.anomalous], 1)
    chosen = [*stratified([sample for sample in samples if sample.anomalous], count - len(good)), *good]
    positions = [samples.index(sample) for sample in chosen]
    pixels = data.test_pixels.cpu().numpy()[positions]
    return ShownImages(chosen, positions, pixels, None if masks is None else masks[positions])


def _columns(
    records: Sequence[Record], shown: ShownImages, data: AnomalyDataModule, store: Store
) -> tuple[list[MapColumn], dict[str, str]]:
    """What can be shown, and by label why the rest cannot."""
    columns, left_out = list[MapColumn](), dict[str, str]()
    at_hand = data.manifest_sha256()
    for record, label in zip(records, _labels(records), strict=True):
        try:
            if record.evidence["data"]["manifest_sha256"] != at_hand:
                raise _LeftOutError("made from other data than those at hand")
            columns.append(_column(record, label, shown, data, store))
        except _LeftOutError as reason:
            left_out[label] = str(reason)
    return columns, left_out


def _labels(records: Sequence[Record]) -> list[str]:
    """Method and options; where that is not enough, with the run's id."""
    named = [
        " ".join([record.spec.method, *(f"{name}={as_set(value)}" for name, value in record.spec.options)])
        for record in records
    ]
    return [
        name if named.count(name) == 1 else f"{name} ({record.spec.run_id})"
        for name, record in zip(named, records, strict=True)
    ]


def _column(record: Record, label: str, shown: ShownImages, data: AnomalyDataModule, store: Store) -> MapColumn:
    assert data.ground_truth is not None
    spec, evaluation = record.spec, EvalSpec(**record.evaluations[record.evaluation]["spec"])
    maps = fuse_maps(_stage_maps(record, store), spec.protocol.image_size, evaluation)
    labels = data.ground_truth.labels
    if len(maps) != len(labels):
        raise _LeftOutError("the runs' maps are of another number of images")
    networks = ", ".join(f"{role} {name}" for role, name in spec.protocol.networks.items())
    subset = "" if spec.train_images is spec.test_images is None else ", a SUBSET of the images"
    return MapColumn(
        label=label,
        trained=f"{networks}, {spec.protocol.epochs} epochs{subset}",
        maps=maps[shown.positions],
        scores=_scores(record, evaluation, shown, store),
        limits=colour_limits(maps, labels, shown.positions),
    )


def _stage_maps(record: Record, store: Store) -> StageMaps:
    try:
        with np.load(store.folder(record.spec.run_id) / MAPS, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise _LeftOutError(GONE) from error


def _scores(record: Record, evaluation: EvalSpec, shown: ShownImages, store: Store) -> list[float]:
    """R scores as they were evaluated: a rule that leaves the background out is not to be repeated here."""
    try:
        scores = stored_scores(store, record, evaluation.eval_id)
        if scores is None:
            raise ValueError("their file is gone")
        by_name = dict(zip(scores.names, scores.scores.tolist(), strict=True))
        return [by_name[sample.name] for sample in shown.samples]
    except (ValueError, KeyError) as error:
        raise _LeftOutError("the runs' scores are gone or broken") from error


def colour_limits(
    maps: NDArray[np.float32], labels: NDArray[np.bool_], positions: Sequence[int]
) -> tuple[float, float]:
    """The ends of one method's colour scale.

    Args:
        maps: (N, H, W), of all test images.
        labels: (N,), True for anomalous.
        positions: of the images that are shown.
    """
    good = maps if labels.all() else maps[~labels]
    low, high = float(np.percentile(good, LOW_PERCENTILE)), float(maps[list(positions)].max())
    return low, high if high > low else low + 1  # of constant maps, which no scale makes more of


def _keep_out_of_git(path: Path) -> None:
    """Ignore files like `path` beside it; a `.gitignore` that is there keeps its lines."""
    ignored, pattern = path.parent / ".gitignore", f"*{path.suffix}"
    with explained(ignored):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.exists() else []
        if pattern not in lines:
            ignored.write_text("\n".join([*lines, pattern]) + "\n", encoding="utf-8")
