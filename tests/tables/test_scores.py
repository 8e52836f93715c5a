"""Scores read back as they were written, and the AUROC of one defect size against a loop over all pairs of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anomaly_bench.bench.evaluate import evaluate
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Record, Store
from anomaly_bench.data.base import GroundTruth
from anomaly_bench.data.layout import Sample
from anomaly_bench.metrics.ranking import auroc, rank_scores
from anomaly_bench.tables.index import Index
from anomaly_bench.tables.scores import Scores, Size, auroc_of_size, read_scores
from tests.tables.made_store import made_record, write_run

HEADER = "path,defect,label,score,share_original,share_evaluated\n"
# Scores on a grid, so that ties are many; (label, score, share).
IMAGES = [
    (False, 0.25, 0.0), (True, 0.5, 0.01), (False, 0.5, 0.0), (True, 0.25, 0.0499999), (True, 0.25, 0.05),
    (True, 0.75, 0.2), (False, 0.75, 0.0), (True, 0.5, 0.2000001), (True, 0.0, 1.0), (True, 0.5, 0.1),
    (False, 0.25, 0.0), (True, 0.5, 0.0), (True, 1.0, 0.9),
]  # fmt: skip


def made(images: list[tuple[bool, float, float]]) -> Scores:
    labels, scores, shares = (np.array(values) for values in zip(*images, strict=True))
    return Scores(tuple(f"{index}.png" for index in range(len(images))), labels, scores, shares)


def in_size(share: float, size: str) -> bool:
    """[0, .05), [.05, .2], (.2, 1]"""
    if size == "small":
        return 0 <= share < 0.05
    return 0.05 <= share <= 0.2 if size == "middle" else 0.2 < share <= 1


@pytest.mark.parametrize("size", ["small", "middle", "large"])
def test_auroc_of_size_is_the_share_of_won_pairs_of_that_size_with_all_good_images(size: Size) -> None:
    won = pairs = 0.0
    for anomalous, high, share in IMAGES:
        for other_anomalous, low, _ in IMAGES:
            if anomalous and in_size(share, size) and not other_anomalous:
                won += 1.0 if high > low else 0.5 if high == low else 0.0
                pairs += 1
    assert pairs == {"small": 3, "middle": 3, "large": 3}[size] * 4
    assert auroc_of_size(made(IMAGES), size) == pytest.approx(won / pairs, rel=1e-12)


@pytest.mark.parametrize(("share", "size"), [(0.0, "small"), (0.05, "middle"), (0.2, "middle"), (1.0, "large")])
def test_a_share_on_a_limit_is_in_one_size_only(share: float, size: str) -> None:
    scores = made([(False, 0.0, 0.0), (True, 1.0, share)])
    sizes: tuple[Size, ...] = ("small", "middle", "large")
    assert [other for other in sizes if auroc_of_size(scores, other) != "no such defects"] == [size]


def test_the_reasons_for_no_auroc_are_told_apart() -> None:
    good, small, unknown = (False, 0.1, 0.0), (True, 0.2, 0.01), (True, 0.2, np.nan)
    assert auroc_of_size(made([good, small]), "large") == "no such defects"
    assert auroc_of_size(made([small]), "small") == "no good test image"
    assert auroc_of_size(made([good, unknown]), "small") == "no masks, so no defect sizes"
    assert auroc_of_size(made([good, small, unknown]), "small") == "no masks, so no defect sizes"


@pytest.mark.parametrize("masked", [True, False])
def test_what_an_evaluation_writes_is_read_back_bit_by_bit(masked: bool) -> None:
    """Two checks of one file: the AUROC recomputed from it is the record's, and names, labels and shares return."""
    names = ["bad/0.png", 'good/a,"b".png', "bad/1.png", "good/é.png"]
    labels = np.array([name.startswith("bad") for name in names])
    masks = np.zeros((4, 16, 16), dtype=bool)
    masks[labels, :3, :7] = True
    shares = np.where(labels, 1 / 3 if masked else np.nan, 0.0)
    samples = [Sample(Path(name), name, name.split("/")[0]) for name in names]
    stages = {"stage1": np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float16)}
    evaluation = evaluate(stages, GroundTruth(samples, masks if masked else None, shares), 16, EvalSpec())
    scores = read_scores(evaluation.scores)
    assert scores.names == tuple(names)
    dtypes = [values.dtype.name for values in (scores.labels, scores.scores, scores.shares)]
    assert dtypes == ["bool", "float64", "float64"]
    np.testing.assert_array_equal(scores.labels, labels)
    np.testing.assert_array_equal(scores.shares, shares)
    ranking = rank_scores(np.sort(scores.scores[~labels]), scores.scores[labels])
    assert auroc(ranking) == evaluation.panel.values["image_auroc"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1 must name the columns"),
        ("<html>\n</html>\n", "line 1 must name the columns"),
        (HEADER.replace("share_original", "share"), "line 1 must name the columns"),
        (HEADER, "no image"),
        (HEADER + "a,good,0,0.5,0.0,\nb,hole,1,0.5", "line 3"),
        (HEADER + "a,good,0,0.5,0.0,0.0,0.0\n", "line 2"),
        (HEADER + "a,good,good,0.5,0.0,\n", "line 2"),
        (HEADER + "a,good,0,,0.0,\n", "line 2"),
        (HEADER + "a,good,0,nan,0.0,\n", "line 2"),
        (HEADER + "a,hole,1,0.5,1.5,\n", "line 2"),
        (HEADER + "a,hole,1,0.5,nan,\n", "line 2"),
        (HEADER + '"a,hole,1,0.5,0.5,\n', "not CSV"),
    ],
)
def test_a_text_that_is_no_file_of_scores_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_scores(text)


def damaged(folder: Path, harm: Callable[[Path], object]) -> tuple[Index, Store, Record]:
    """A store with one run, and something done to its scores."""
    record = made_record("bottle")
    write_run(folder / "runs" / record.spec.run_id, record)
    harm(folder / "runs" / record.spec.run_id / f"scores-{record.evaluation}.csv")
    store = Store(folder)
    return Index.of_store(store), store, record


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: path.unlink(), "gone"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "broken"),
        (lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1])),
         "broken (it has 20 good and 62 defective images, the record 20 and 63) and not used"),
    ],
    ids=["gone", "no text", "a line less"],
)  # fmt: skip
def test_scores_that_are_not_those_of_the_record_are_said_and_not_used(
    harm: Callable[[Path], object], why: str, tmp_path: Path
) -> None:
    index, store, record = damaged(tmp_path, harm)
    assert index.scores_of(record, EvalSpec()) is None
    assert len(store.complaints) == 1
    assert store.complaints[0].startswith(f"the scores of run {record.spec.run_id} are {why}")
    assert store.complaints[0].endswith("; run it --again.")
    assert index.scores_of(record, EvalSpec(sigma=1.0)) is None  # a rule that never was asked for
    assert len(store.complaints) == 1


def test_whole_scores_are_those_of_the_record(tmp_path: Path) -> None:
    index, store, record = damaged(tmp_path, lambda _: None)
    scores = index.scores_of(record, EvalSpec())
    assert scores is not None
    assert (len(scores.names), int(scores.labels.sum()), store.complaints) == (83, 63, [])
