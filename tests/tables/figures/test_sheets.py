"""Heat-map sheets of real, tiny runs: what is shown, on which scale, and what is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from anomaly_bench.bench.evaluate import fuse_maps
from anomaly_bench.bench.execute import MAPS, execute, open_data
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Record, Store, scores_name
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.errors import UserError
from anomaly_bench.tables.figures import sheets, style
from anomaly_bench.tables.figures.sheet_page import DOTS_PER_INCH, MapColumn, ShownImages, sheet_figure
from anomaly_bench.tables.figures.sheets import GONE, Sheet, choose_images, colour_limits, heat_map_sheet
from tests.conftest import tiny_spec
from tests.tables.made_store import made_record

GLOBAL, PIXEL = "rd", "rd loss_form=pixel"


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], Places]:
    places = Places(data_root, tmp_path_factory.mktemp("results"))
    store = Store(places.results)
    return [execute(spec, places, store) for spec in (tiny_spec(), tiny_spec(loss_form="pixel"))], places


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []

    def save(figure: Figure, path: Path) -> Path:
        saved.append(figure)
        return style.save(figure, path)

    monkeypatch.setattr(sheets, "save", save)
    return saved


@pytest.fixture
def restored(trained: tuple[list[Record], Places]) -> Iterator[None]:
    """The runs' files are afterwards what they were."""
    records, places = trained
    files = [file for record in records for file in Store(places.results).folder(record.spec.run_id).iterdir()]
    contents = {file: file.read_bytes() for file in files}
    yield
    for file, content in contents.items():
        file.write_bytes(content)


def draw(trained: tuple[list[Record], Places], path: Path, images: int = 3) -> Sheet:
    records, places = trained
    return heat_map_sheet(records, places, Store(places.results), path, images=images)


def loaded(trained: tuple[list[Record], Places]) -> AnomalyDataModule:
    data = open_data(trained[0][0].spec, trained[1])
    data.setup()
    return data


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def maps_file(trained: tuple[list[Record], Places], index: int) -> Path:
    return Store(trained[1].results).folder(trained[0][index].spec.run_id) / MAPS


def test_a_sheet_has_a_row_an_image_and_a_column_a_method(
    trained: tuple[list[Record], Places], tmp_path: Path, figures: list[Figure]
) -> None:
    path = tmp_path / "sheets" / "brick.png"
    assert draw(trained, path) == Sheet(path, {})
    cells = [str(axes.get_label()) for axes in figures[0].axes]
    columns = ["input", "ground truth", GLOBAL, PIXEL]
    assert sorted(cells) == sorted(
        [f"{row} {column}" for row in range(3) for column in columns] + [f"scale of {c}" for c in columns[2:]]
    )
    with Image.open(path) as image:
        assert image.size == tuple(np.floor(figures[0].get_size_inches() * DOTS_PER_INCH))
        assert image.width > 4 * 256


def test_anomalous_images_of_every_defect_type_come_first_and_a_good_one_last(
    trained: tuple[list[Record], Places],
) -> None:
    data = loaded(trained)
    assert data.ground_truth is not None
    types = {sample.defect for sample in data.ground_truth.samples} - {"good"}
    shown = choose_images(data, len(types) + 1)
    assert {sample.defect for sample in shown.samples[:-1]} == types
    assert shown.samples[-1].defect == "good"
    assert shown.masks is not None
    assert data.ground_truth.masks is not None
    assert data.test_pixels is not None
    assert not shown.masks[-1].any()
    for row, (position, sample) in enumerate(zip(shown.positions, shown.samples, strict=True)):
        assert data.ground_truth.samples[position] is sample
        np.testing.assert_array_equal(shown.masks[row], data.ground_truth.masks[position])
        np.testing.assert_array_equal(shown.pixels[row], data.test_pixels[position])
    assert len(choose_images(data, 1000).samples) == sum(data.ground_truth.labels) + 1


def test_one_column_has_one_scale_from_the_good_images_1st_percentile_to_the_maximum_shown(
    trained: tuple[list[Record], Places], tmp_path: Path, figures: list[Figure]
) -> None:
    draw(trained, tmp_path / "sheet.png")
    data = loaded(trained)
    assert data.ground_truth is not None
    positions = choose_images(data, 3).positions
    ends = []
    for index, label in enumerate((GLOBAL, PIXEL)):
        maps = fuse_maps(dict(np.load(maps_file(trained, index))), 64, EvalSpec())
        good = sorted(value for position, image in enumerate(maps) if not data.ground_truth.labels[position]
                      for value in image.flatten().tolist())  # fmt: skip
        place = 0.01 * (len(good) - 1)
        low = good[int(place)] + (place % 1) * (good[int(place) + 1] - good[int(place)])
        cells = [f"{row} {label}" for row in range(3)]
        images = [axes.images[0] for axes in figures[0].axes if axes.get_label() in cells]
        assert len(images) == 3
        assert {image.get_clim() for image in images} == {images[0].get_clim()}
        assert images[0].get_clim() == pytest.approx((low, max(maps[position].max() for position in positions)))
        ends.append(images[0].get_clim())
        for image, position in zip(images, positions, strict=True):
            np.testing.assert_array_equal(image.get_array(), maps[position])
    assert ends[0] != ends[1]


def test_the_scale_takes_its_lower_end_from_good_images_alone() -> None:
    maps = np.stack([np.full((2, 2), value, dtype=np.float32) for value in (1, 5, 9)])
    assert colour_limits(maps, np.array([False, True, True]), [0, 1]) == (1.0, 5.0)
    assert colour_limits(maps, np.array([True, False, True]), [0, 2]) == (5.0, 9.0)
    assert colour_limits(maps[1:2], np.array([True]), [0]) == (5.0, 6.0)


def test_the_score_under_a_map_is_the_one_in_the_runs_csv(
    trained: tuple[list[Record], Places], tmp_path: Path, figures: list[Figure]
) -> None:
    records, places = trained
    draw(trained, tmp_path / "sheet.png")
    names = [sample.name for sample in choose_images(loaded(trained), 3).samples]
    for record in records:
        scores = Store(places.results).folder(record.spec.run_id) / scores_name(EvalSpec())
        rows = {line.split(",")[0]: line.split(",") for line in scores.read_text().splitlines()[1:]}
        for name in names:
            label = {"1": "defective", "0": "good"}[rows[name][2]]
            assert f"score {float(rows[name][3]):.4g}, {label}" in texts(figures[0])
    assert texts(figures[0])[0] == "synthetic/brick, seed 0"
    assert any("1 epochs, a SUBSET of the images" in text.replace("\n", " ") for text in texts(figures[0]))


def test_the_same_runs_give_the_same_bytes_whatever_the_users_matplotlib_settings(
    trained: tuple[list[Record], Places], tmp_path: Path
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    draw(trained, first)
    with matplotlib.rc_context({"font.size": 20, "image.cmap": "gray", "savefig.dpi": 40, "axes.facecolor": "red"}):
        draw(trained, again)
        assert matplotlib.rcParams["font.size"] == 20
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.usefixtures("restored")
def test_a_changed_map_changes_the_sheet(trained: tuple[list[Record], Places], tmp_path: Path) -> None:
    draw(trained, tmp_path / "before.png")
    with np.load(maps_file(trained, 0)) as archive:
        stages = {name: archive[name] for name in archive.files}
    np.savez(maps_file(trained, 0), **{name: stage[::-1] for name, stage in stages.items()})
    draw(trained, tmp_path / "after.png")
    assert (tmp_path / "before.png").read_bytes() != (tmp_path / "after.png").read_bytes()


@pytest.mark.usefixtures("restored")
def test_a_run_without_its_maps_is_left_out_with_the_reason(
    trained: tuple[list[Record], Places], tmp_path: Path, figures: list[Figure]
) -> None:
    maps_file(trained, 0).unlink()
    path = tmp_path / "sheet.png"
    assert draw(trained, path) == Sheet(path, {GLOBAL: GONE})
    assert f"0 {PIXEL}" in [axes.get_label() for axes in figures[0].axes]
    assert f"0 {GLOBAL}" not in [axes.get_label() for axes in figures[0].axes]


@pytest.mark.usefixtures("restored")
def test_without_any_run_to_show_nothing_is_written(trained: tuple[list[Record], Places], tmp_path: Path) -> None:
    (records, places), path = trained, tmp_path / "new" / "sheet.png"
    maps_file(trained, 0).write_bytes(b"PK\3\4 half a file")
    scores = maps_file(trained, 1).with_name(scores_name(EvalSpec()))
    scores.write_text("\n".join(scores.read_text().splitlines()[:2]))
    other = dataclasses.replace(records[0], evidence={"data": {"manifest_sha256": "00"}})
    sheet = heat_map_sheet([*records, other], places, Store(places.results), path)
    same = f"rd ({records[0].spec.run_id})"
    assert sheet.path is None
    assert list(sheet.left_out) == [same, PIXEL]
    assert sheet.left_out[PIXEL] == "the runs' scores are gone or broken"
    assert draw(trained, path) == Sheet(None, {GLOBAL: GONE, PIXEL: sheet.left_out[PIXEL]})
    assert not path.parent.exists()


def test_a_run_on_other_data_is_left_out(trained: tuple[list[Record], Places], tmp_path: Path) -> None:
    (records, places), path = trained, tmp_path / "sheet.png"
    other = dataclasses.replace(records[0], evidence={"data": {"manifest_sha256": "00"}})
    sheet = heat_map_sheet([other, records[1]], places, Store(places.results), path, images=2)
    expected = "made from other data than those at hand"
    assert sheet == Sheet(path, {GLOBAL: expected})


def test_images_of_a_data_set_stay_out_of_git(trained: tuple[list[Record], Places], tmp_path: Path) -> None:
    ignored = tmp_path / ".gitignore"
    ignored.write_text("*.bak")
    for _ in range(2):
        draw(trained, tmp_path / "sheet.png", images=2)
    assert ignored.read_text() == "*.bak\n*.png\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", "sheet.png"]


def test_what_cannot_be_drawn_is_refused(trained: tuple[list[Record], Places], tmp_path: Path) -> None:
    (records, places), path = trained, tmp_path / "sheet.png"
    store = Store(places.results)
    with pytest.raises(UserError, match="ask for 2 images or more, not 1"):
        heat_map_sheet(records, places, store, path, images=1)
    clone, bottle = Places(tmp_path, tmp_path), made_record("bottle")
    assert heat_map_sheet([bottle], clone, Store(tmp_path), path) == Sheet(None, {"rd": GONE}), "whatever the data"
    folder = Store(tmp_path).folder(bottle.spec.run_id)
    folder.mkdir(parents=True)
    (folder / "maps.npz").touch()
    with pytest.raises(UserError, match="no MVTec AD in"):
        heat_map_sheet([bottle], clone, Store(tmp_path), path)
    with pytest.raises(ValueError, match="of one category, seed and image size"):
        heat_map_sheet([*records, made_record("bottle")], places, store, path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/\.gitignore .*; choose another --results"):
        heat_map_sheet(records, places, store, tmp_path / "file" / "sheet.png", images=2)
    assert not path.exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [32, 57])
def test_data_without_masks_have_no_ground_truth_and_constant_maps_still_have_a_scale(
    trained: tuple[list[Record], Places], side: int, tmp_path: Path
) -> None:
    samples = choose_images(loaded(trained), 2).samples
    samples[0] = dataclasses.replace(samples[0], name=f"test/{'long_name' * 20}.png")
    shown = ShownImages(samples, [0, 1], np.zeros((2, side, side, 3), dtype=np.uint8), None)
    column = MapColumn("a" * 50, "", np.zeros((2, side, side), dtype=np.float32), [0.0, 0.0], (0.0, 1.0))
    figure = sheet_figure("none", shown, [column])
    figure.savefig(tmp_path / "sheet.png")
    assert len(figure.axes) == 2 * 2 + 1
    assert not any("ground truth" in text for text in texts(figure))
    masks = np.zeros((2, side, side), dtype=bool)
    lost = texts(sheet_figure("lost", dataclasses.replace(shown, masks=masks), [column]))
    assert "0.00 % of the pixels" in lost  # a defect too small for the evaluated size makes no good image
    masks[0] = True
    full = texts(sheet_figure("full", dataclasses.replace(shown, masks=masks), [column]))
    assert "100.00 % of the pixels" in full
    assert "good" in full
