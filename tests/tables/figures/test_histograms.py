"""Score histograms: what is counted, in which bins, under which title."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch

from anomaly_bench.errors import UserError
from anomaly_bench.tables.figures.histograms import BINS, MethodScores, histogram_figure, score_histogram
from anomaly_bench.tables.scores import Scores


def made_scores(seed: int = 0, count: int = 41) -> Scores:
    random = np.random.default_rng(seed)
    labels = random.random(count) < 0.7
    names = tuple(str(index) for index in range(count))
    return Scores(names, labels, random.normal(size=count) + labels * (1 + seed), np.zeros(count))


RD = MethodScores("rd", made_scores(), 0.98765)
OTHER = MethodScores("dlkd noise_std=0.1", made_scores(1), None)


def steps(axes: Axes) -> dict[str, StepPatch]:
    return {str(patch.get_label()): patch for patch in axes.patches if isinstance(patch, StepPatch)}


def test_every_image_is_counted_once_in_the_histogram_of_its_label() -> None:
    axes = histogram_figure([RD, OTHER], "mvtec/bottle").axes
    for panel, method in zip(axes, (RD, OTHER), strict=True):
        assert list(steps(panel)) == ["good", "defective"]
        for name, anomalous in (("good", False), ("defective", True)):
            counts, edges, _ = steps(panel)[name].get_data()
            for index in range(BINS):
                low, high = edges[index], edges[index + 1]
                inside = [
                    low <= score < high or (index == BINS - 1 and score == high)
                    for score, label in zip(method.scores.scores, method.scores.labels, strict=True)
                    if label == anomalous
                ]
                assert counts[index] == sum(inside)
            assert counts.sum() == sum(label == anomalous for label in method.scores.labels)


def test_bins_are_common_to_both_labels_of_a_method_and_not_to_methods() -> None:
    first, second = (steps(panel) for panel in histogram_figure([RD, OTHER], "").axes)
    edges = first["good"].get_data()[1]
    np.testing.assert_array_equal(edges, first["defective"].get_data()[1])
    assert (edges[0], edges[-1]) == (RD.scores.scores.min(), RD.scores.scores.max())
    assert not np.array_equal(edges, second["good"].get_data()[1])


def test_a_panels_title_has_the_records_auroc_and_the_counts() -> None:
    good = int((~RD.scores.labels).sum())
    titles = [panel.get_title() for panel in histogram_figure([RD, OTHER], "").axes]
    assert titles[0] == f"rd\nimage AUROC 98.77 %\n{good} good, {41 - good} defective"
    assert "image AUROC undefined" in titles[1]


@pytest.mark.parametrize(("methods", "grid"), [(1, (1, 1)), (3, (1, 3)), (5, (2, 3))])
def test_panels_stand_three_in_a_row(methods: int, grid: tuple[int, int]) -> None:
    figure = histogram_figure([RD] * methods, "title")
    assert len(figure.axes) == methods
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == grid  # type: ignore[union-attr]
    assert len(figure.legends) == 1


@pytest.mark.filterwarnings("error")
def test_equal_scores_and_a_missing_label_are_drawn_too(tmp_path: Path) -> None:
    scores = dataclasses.replace(RD.scores, scores=np.zeros(41), labels=np.ones(41, dtype=bool))
    figure = histogram_figure([MethodScores("$x_1", scores, None)], "$\\frac")
    figure.savefig(tmp_path / "figure.svg")
    assert steps(figure.axes[0])["defective"].get_data()[0].sum() == 41
    assert steps(figure.axes[0])["good"].get_data()[0].sum() == 0


def test_the_same_scores_give_the_same_bytes_and_other_scores_do_not(tmp_path: Path) -> None:
    def text(name: str, *methods: MethodScores) -> str:
        return score_histogram(methods, "mvtec/bottle", tmp_path / "new" / name).read_text(encoding="utf-8")

    first = text("1.svg", RD, OTHER)
    assert first == text("2.svg", RD, OTHER)
    assert first != text("3.svg", OTHER, RD)
    assert 'href="http' not in first
    assert "url(http" not in first
    assert ">rd<" in first  # text that can be searched, not outlines
    assert len(first) < 100_000
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["1.svg", "2.svg", "3.svg"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/x\.svg \(.*\); choose another --results\."):
        score_histogram([RD], "", tmp_path / "file" / "x.svg")
