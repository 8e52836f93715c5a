"""The scores of one evaluation read back from `scores-<eval>.csv`, and the image AUROC of one defect size.

Paper       AST-MFR, Table 3: defects are small, middle or large by the anomalous part of the image's pixels.
Sizes       small [0, 0.05), middle [0.05, 0.2], large (0.2, 1], of the pixels at the original size. The paper states
            neither to which size the limits themselves belong nor at which resolution it measured.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_bench.bench.store import Record, Store
from anomaly_bench.metrics.ranking import auroc, rank_scores

Size = Literal["small", "middle", "large"]

SMALL_BELOW, LARGE_ABOVE = 0.05, 0.2
COLUMNS = ("path", "label", "score", "share_original")  # of those in the file, the ones read here
LABELS = {"0": False, "1": True}

Pick = Callable[[list[str]], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Scores:
    """What one evaluation says of each of its N test images; equal to itself alone, whatever others hold.

    Attributes:
        names: N of them, in the order of the file.
        labels: (N,) True for anomalous.
        scores: (N,) finite, higher is more anomalous.
        shares: (N,) anomalous part of the pixels at the original size, in [0, 1]; NaN where nobody knows.
    """

    names: tuple[str, ...]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    shares: NDArray[np.float64]


def read_scores(text: str) -> Scores:
    """The inverse of what `bench.evaluate` writes, bit by bit.

    Raises:
        ValueError: the text is not such a file; one sentence, with the line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, [])
        if not set(COLUMNS) <= set(columns):
            raise ValueError(f"line 1 must name the columns {', '.join(COLUMNS)}.")
        pick: Pick = itemgetter(*map(columns.index, COLUMNS))
        images = [_image(row, pick, len(columns), reader.line_num) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV ({error}).") from error
    if not images:
        raise ValueError("there is no image below line 1.")
    names, labels, scores, shares = zip(*images, strict=True)
    return Scores(names, np.array(labels), np.array(scores), np.array(shares))


def stored_scores(store: Store, record: Record, eval_id: str) -> Scores | None:
    """The scores of one evaluation of a run; None where their file is gone.

    Raises:
        ValueError: it is no such file, or one of more or fewer images than the record counts; one sentence.
    """
    text = store.read_scores(record.spec.run_id, eval_id)
    if text is None:
        return None
    scores, counts = read_scores(text), record.evidence["data"]["counts"]
    defective = int(scores.labels.sum())
    found, tested = (len(scores.labels) - defective, defective), (counts["test_good"], counts["test_defective"])
    if record.spec.test_images is None and found != tested:
        numbers = f"{found[0]} good and {found[1]} defective images, the record {tested[0]} and {tested[1]}"
        raise ValueError(f"it has {numbers}.")
    return scores


def _image(row: list[str], pick: Pick, values: int, line: int) -> tuple[str, bool, float, float]:
    """Name, label, score and share of one line of `values`, from where `pick` finds `COLUMNS`."""
    try:
        if len(row) != values:
            raise ValueError("its number of values is not that of line 1")
        name, label, score, share = pick(row)
        image = name, LABELS[label], float(score), float(share) if share else math.nan
    except (KeyError, ValueError) as error:
        raise ValueError(f"line {line} is not that of a scored image ({error}).") from None
    if not math.isfinite(image[2]) or (share and not 0 <= image[3] <= 1):
        raise ValueError(f"line {line} has the score {score} and the share {share}: out of range.")
    return image


def auroc_of_size(scores: Scores, size: Size) -> float | str:
    """Image AUROC of the anomalous images with defects of one size against all good ones (AST-MFR, Table 3).

    Returns:
        A fraction in [0, 1], or why there is none: `no masks, so no defect sizes`, `no such defects` or
        `no good test image`.
    """
    # One image of unknown size could belong to any of the three, so none of them is known.
    if np.isnan(scores.shares[scores.labels]).any():
        return "no masks, so no defect sizes"
    chosen = scores.scores[scores.labels & _of_size(scores.shares, size)]
    good = np.sort(scores.scores[~scores.labels])
    if not chosen.size:
        return "no such defects"
    return auroc(rank_scores(good, chosen)) if good.size else "no good test image"


def _of_size(shares: NDArray[np.float64], size: Size) -> NDArray[np.bool_]:
    small, large = shares < SMALL_BELOW, shares > LARGE_ABOVE
    return {"small": small, "middle": ~small & ~large, "large": large}[size]
