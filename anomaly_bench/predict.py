"""`anomaly-bench predict`: from image files to a CSV of scores and a folder of heat-map overlays.

A file that cannot be read stops no other: it has no row, and is named at the end. The CSV is written last and whole,
so that a folder which has it is complete.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from anomaly_bench.bench.predictor import Predictor
from anomaly_bench.bench.texts import replace_text
from anomaly_bench.data.base import PREDICT_BATCH
from anomaly_bench.data.images import DecodedImage, parallel, read_image
from anomaly_bench.data.layout import IMAGE_SUFFIXES
from anomaly_bench.errors import UserError
from anomaly_bench.overlays import Limits, overlay

SCORES, OVERLAYS = "scores.csv", "overlays"
MASKS = "ground_truth"  # as MVTec AD and its kin name the folder


@dataclass(frozen=True)
class ImageFile:
    """One image to be scored; `name` is its path below the folder that was named, or its own name."""

    path: Path
    name: PurePath


@dataclass(frozen=True)
class Scored:
    """One image's row; `overlay` is the picture's path below the output folder, or None."""

    path: Path
    score: float
    overlay: PurePath | None


@dataclass(frozen=True)
class Scores:
    """What came of all files: a row for each that could be read, and for each other why not, in one sentence."""

    rows: list[Scored]
    unread: list[str]


def find_images(named: Sequence[Path], out: Path) -> list[ImageFile]:
    """The files named, and every image below the folders named, sorted.

    Overlays of an earlier call are left out, and below a data set's folder its masks.

    Raises:
        UserError: something named does not exist, or a folder holds no image.
    """
    found: dict[Path, ImageFile] = {}
    overlays = (out / OVERLAYS).resolve()  # whatever way either is spelled
    for path in named:
        if not path.exists():
            raise UserError(f"{path} does not exist; correct the path.")
        files = [ImageFile(path, PurePath(path.name))]
        if path.is_dir():
            files = [ImageFile(file, file.relative_to(path)) for file in sorted(path.rglob("*")) if _is_image(file)]
            files = [
                file for file in files if overlays not in file.path.resolve().parents and MASKS not in file.name.parts
            ]
            if not files:
                kinds = ", ".join(IMAGE_SUFFIXES)
                raise UserError(f"there is no image ({kinds}) in {path} beside masks of {MASKS}; correct the path.")
        found |= {file.path: file for file in files if file.path not in found}
    return list(found.values())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def score_files(predictor: Predictor, images: Sequence[ImageFile], out: Path, limits: Limits | None) -> Scores:
    """Score every image and draw its overlay, a few at a time: memory does not grow with their number.

    What an earlier call left in the folder is removed as soon as there is something to take its place.

    Args:
        predictor: the run.
        images: the files.
        out: folder of the overlays.
        limits: the overlays' colour scale, or None for no overlays.

    Raises:
        UserError: the overlays cannot be written.
    """
    rows, unread = list[Scored](), list[str]()
    names = _overlay_names(images) if limits is not None else dict[Path, PurePath]()
    for start in range(0, len(images), PREDICT_BATCH):
        chunk = images[start : start + PREDICT_BATCH]
        decoded = parallel(lambda image: _decoded(image.path, predictor.image_size), chunk)
        unread += [problem for problem in decoded if isinstance(problem, str)]
        pairs = [(file.path, image) for file, image in zip(chunk, decoded, strict=True) if not isinstance(image, str)]
        if not pairs:
            continue
        if not rows:
            _start_over(out)
        pixels = np.stack([image.pixels for _, image in pairs])
        predicted = predictor.predict(pixels)
        for index, (path, _) in enumerate(pairs):
            rows.append(Scored(path, float(predicted.scores[index]), names.get(path)))
            if limits is not None:
                _save(overlay(pixels[index], predicted.maps[index], limits), out / names[path])
    return Scores(rows, unread)


def _decoded(path: Path, size: int) -> DecodedImage | str:
    try:
        return read_image(path, size)
    except UserError as error:
        return str(error)


def _overlay_names(images: Sequence[ImageFile]) -> dict[Path, PurePath]:
    """`overlays/<name>.png` by file; of two that would share one (`a.jpg` and `a.png`), the second gets a number."""
    names: dict[Path, PurePath] = {}
    taken = set[PurePath]()
    for image in images:
        name = next(name for name in _candidates(PurePath(OVERLAYS) / image.name) if name not in taken)
        taken.add(name)
        names[image.path] = name
    return names


def _candidates(name: PurePath) -> Iterator[PurePath]:
    yield name.with_suffix(".png")
    number = 2
    while True:
        yield name.with_name(f"{name.stem}-{number}.png")
        number += 1


def _save(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], path: Path) -> None:
    drawn = io.BytesIO()
    Image.fromarray(picture).save(drawn, format="png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn.getvalue())
    except OSError as error:
        raise _unwritable(path, error) from error


def write_scores(rows: Sequence[Scored], out: Path, predictor: Predictor, threshold: float | None) -> Path:
    """`scores.csv`, a row an image: path, score, overlay, and the ids of the run and of its evaluation.

    With a threshold also it and whether the score is above it.

    Raises:
        UserError: the folder cannot be written to.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    verdict = [] if threshold is None else ["threshold", "anomalous"]
    writer.writerow(["path", "score", *verdict, "overlay", "run", "evaluation"])
    origin = [predictor.spec.run_id, predictor.evaluation.eval_id]
    for row in rows:
        decided = [] if threshold is None else [threshold, int(row.score > threshold)]
        writer.writerow([row.path, row.score, *decided, row.overlay or "", *origin])
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / SCORES, text.getvalue())
    except OSError as error:
        raise _unwritable(out / SCORES, error) from error
    return out / SCORES


def _start_over(out: Path) -> None:
    """Remove an earlier call's scores, and the overlays that they name; whatever else is there is the user's.

    Raises:
        UserError: they cannot be removed.
    """
    earlier = out / SCORES
    try:
        rows = csv.DictReader(io.StringIO(earlier.read_text(encoding="utf-8")))
        overlays = [out / name for row in rows if (name := row.get("overlay"))]
    except (OSError, ValueError, csv.Error):  # none, or not from here
        overlays = []
    try:
        for path in (earlier, *overlays):
            if path == earlier or (out / OVERLAYS in path.parents and ".." not in path.parts and path.is_file()):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(earlier, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path} ({error.strerror}); choose another --out.")
