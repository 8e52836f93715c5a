"""The data module: samples to tensors, batches, subsets and evidence, on a category of a dozen tiny images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Resize

from anomaly_bench.data import base, images
from anomaly_bench.data.base import AnomalyDataModule, Batch, BatchOrder, Counts, Official
from anomaly_bench.data.folder import Folder
from anomaly_bench.data.layout import Sample
from anomaly_bench.data.subset import spaced, stratified
from anomaly_bench.errors import UserError

HEIGHT, WIDTH = 20, 24
TEST_NAMES = [f"test/{defect}/{index:03}.png" for defect in ("crack", "good", "hole") for index in range(2)]


class Published(Folder):
    """A data set whose publishers say what `category` below holds."""

    counts_said, size_said = Counts(train=5, test_good=2, test_defective=4, masks=4), (HEIGHT, WIDTH)

    @classmethod
    def official(cls, category: str) -> Official:
        return Official(cls.counts_said, cls.size_said)


def save_noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, rows: int, columns: int) -> None:
    """A mask with one anomalous rectangle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[2 : 2 + rows, 3 : 3 + columns] = 255
    Image.fromarray(pixels).save(path)


@pytest.fixture
def category(tmp_path: Path) -> Path:
    """Five training images, two good ones and two of each defect; the mask of hole/001 is a single pixel."""
    folder = tmp_path / "thing"
    for index in range(5):
        save_noise(folder / f"train/good/{index:03}.png", index)
    for seed, name in enumerate(TEST_NAMES):
        save_noise(folder / name, 100 + seed)
    for defect, index, rows, columns in (
        ("crack", 0, 8, 8),
        ("crack", 1, 10, 12),
        ("hole", 0, 15, 4),
        ("hole", 1, 1, 1),
    ):
        save_mask(folder / f"ground_truth/{defect}/{index:03}_mask.png", rows, columns)
    return folder


def open_category(folder: Path, kind: type[AnomalyDataModule] = Folder, **options: Any) -> AnomalyDataModule:
    data = kind(folder.parent, folder.name, **{"image_size": 16, "batch_size": 2, **options})
    data.setup()
    return data


def training_batches(data: AnomalyDataModule, epoch: int = 0) -> list[Batch]:
    loader: Any = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def order(data: AnomalyDataModule, epoch: int = 0) -> list[int]:
    return torch.cat([batch.indices for batch in training_batches(data, epoch)]).tolist()


def resized(path: Path, size: int = 16) -> Tensor:
    """An image as it must arrive, (3, size, size)."""
    return torch.from_numpy(np.array(Resize((size, size))(Image.open(path)))).permute(2, 0, 1)


# Test images.


def test_label_mask_and_share_of_every_test_image(category: Path) -> None:
    ground_truth = open_category(category).ground_truth
    assert ground_truth is not None
    assert [sample.name for sample in ground_truth.samples] == TEST_NAMES
    assert ground_truth.labels.tolist() == [True, True, False, False, True, True]
    assert ground_truth.shares.tolist() == [area / (HEIGHT * WIDTH) for area in (64, 120, 0, 0, 60, 1)]
    assert ground_truth.masks is not None
    assert ground_truth.masks.shape == (6, 16, 16)
    # The single pixel vanishes when the mask is shrunk; its image is anomalous all the same.
    assert ground_truth.masks.any(axis=(1, 2)).tolist() == [True, True, False, False, True, False]
    expected = np.array(Resize((16, 16))(Image.open(category / "ground_truth/crack/000_mask.png"))) / 255 > 0.5
    np.testing.assert_array_equal(ground_truth.masks[0], expected)


def test_prediction_batches_hold_the_test_images_in_their_fixed_order(
    category: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PREDICT_BATCH", 4)
    data = open_category(category)
    for _ in range(2):
        batches: list[Batch] = list(data.predict_dataloader())
        assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
        pixels = torch.cat([batch.images for batch in batches])
        assert torch.equal(pixels, torch.stack([resized(category / name) for name in TEST_NAMES]))


# Training batches.


def test_an_epoch_has_every_image_once_and_keeps_the_short_last_batch(category: Path) -> None:
    data = open_category(category, image_size=64)
    batches = training_batches(data)
    assert [len(batch.images) for batch in batches] == [2, 2, 1]
    assert len(data.train_dataloader()) == 3
    assert sorted(order(data)) == [0, 1, 2, 3, 4]
    for batch in batches:
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            assert torch.equal(image, resized(category / f"train/good/{index:03}.png", 64))


def test_batches_are_uint8_in_channels_last_memory(category: Path) -> None:
    data = open_category(category)
    for batch in [*training_batches(data), *data.predict_dataloader()]:
        assert batch.images.shape[1:] == (3, 16, 16)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_the_order_depends_on_seed_and_epoch_alone(category: Path) -> None:
    data = open_category(category, shuffle_seed=7, image_size=64)
    orders = [order(data, epoch) for epoch in range(6)]
    torch.manual_seed(123)
    again = open_category(category, shuffle_seed=7, batch_size=3, image_size=64)
    assert [order(again, epoch) for epoch in reversed(range(6))] == orders[::-1]
    assert len({tuple(indices) for indices in orders}) > 4
    other = [order(open_category(category, shuffle_seed=8), epoch) for epoch in range(6)]
    assert sum(mine != theirs for mine, theirs in zip(orders, other, strict=True)) > 4


class Watcher(lightning.LightningModule):
    """Trains nothing, and writes down what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen += batch.indices.tolist()
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.filterwarnings("ignore")
def test_lightning_moves_the_order_on_with_every_epoch(category: Path) -> None:
    data, watcher = open_category(category), Watcher()
    switched_off = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", logger=False, log_every_n_steps=1, **switched_off)
    trainer.fit(watcher, datamodule=data)
    assert watcher.seen == [index for epoch in range(3) for index in order(data, epoch)]


def test_nothing_is_read_again_after_setup(category: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_category(category)
    first = [training_batches(data), list(data.predict_dataloader())]

    def refuse(*_: object) -> None:
        raise AssertionError("a file was read after setup")

    for module, name in ((base, "read_image_into"), (base, "read_mask"), (images, "whole_image")):
        monkeypatch.setattr(module, name, refuse)
    shutil.rmtree(category)
    for stage in ("fit", "predict", None):
        data.setup(stage)
    for before, after in zip(first, [training_batches(data), list(data.predict_dataloader())], strict=True):
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one.images, other.images)


# Subsets.


def some_samples(defects: str) -> list[Sample]:
    """Samples of the one-letter defect types given, "g" for the good ones."""
    return [Sample(Path(f"{i}.png"), f"{i}", {"g": "good"}.get(defect, defect)) for i, defect in enumerate(defects)]


def names(samples: list[Sample]) -> str:
    return "".join(sample.name for sample in samples)


@pytest.mark.parametrize(
    ("count", "kept"),
    [(None, "0123456789"), (10, "0123456789"), (99, "0123456789"), (5, "02468"), (3, "036"), (1, "0")],
)
def test_a_training_subset_is_spaced_evenly(count: int | None, kept: str) -> None:
    assert names(spaced(some_samples("g" * 10), count)) == kept


@pytest.mark.parametrize(
    ("count", "kept"), [(None, "012345678"), (9, "012345678"), (3, "067"), (4, "0167"), (5, "01678"), (6, "012678")]
)
def test_a_test_subset_takes_every_defect_type_in_turn(count: int | None, kept: str) -> None:
    assert names(stratified(some_samples("aaaaaabgg"), count)) == kept


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_module_with_subsets_has_every_defect_type_and_is_the_same_every_time(category: Path, count: int) -> None:
    modules = [open_category(category, train_images=3, test_images=count) for _ in range(2)]
    for data in modules:
        assert data.ground_truth is not None
        assert data.train_pixels is not None
        assert {sample.defect for sample in data.ground_truth.samples} == {"crack", "good", "hole"}
        assert (len(data.ground_truth.samples), len(data.train_pixels)) == (count, 3)
        for row, index in enumerate((0, 1, 3)):
            expected = resized(category / f"train/good/{index:03}.png").permute(1, 2, 0)
            assert torch.equal(data.train_pixels[row], expected)
    assert modules[0].ground_truth is not None
    assert modules[1].ground_truth is not None
    assert modules[0].ground_truth.samples == modules[1].ground_truth.samples
    assert modules[0].counts() == Published.counts_said  # what is on disk, not what is kept


# Evidence.


def test_the_manifest_hash_knows_content_and_nothing_else(category: Path, tmp_path: Path) -> None:
    before = open_category(category).manifest_sha256()
    copy = tmp_path / "elsewhere" / "copy"
    for path in sorted((p for p in category.rglob("*") if p.is_file()), reverse=True):  # written in another order
        target = copy / path.relative_to(category)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        os.utime(target, (1, 1))
    assert open_category(copy).manifest_sha256() == before
    assert open_category(copy, train_images=2, test_images=3, image_size=8).manifest_sha256() == before
    (copy / "readme.txt").write_text("no image")
    assert open_category(copy).manifest_sha256() == before


@pytest.mark.parametrize("name", ["train/good/004.png", "test/good/001.png", "ground_truth/hole/000_mask.png"])
def test_the_manifest_hash_changes_with_one_byte_of_any_image_or_mask(category: Path, name: str) -> None:
    before = open_category(category).manifest_sha256()
    (category / name).write_bytes((category / name).read_bytes() + b"\0")
    assert open_category(category).manifest_sha256() != before


def test_evidence_of_a_complete_category(category: Path) -> None:
    counts = {"train": 5, "test_good": 2, "test_defective": 4, "masks": 4}
    assert open_category(category, Published).evidence() == {
        "manifest_sha256": open_category(category).manifest_sha256(),
        "counts": counts,
        "official_counts": counts,
        "complete": True,
        "verified": None,
        "image_sizes": [[HEIGHT, WIDTH]],
        "official_image_size": [HEIGHT, WIDTH],
        "resized": False,
    }


@pytest.mark.parametrize("name", ["train/good/004.png", "test/good/001.png"])
def test_evidence_of_an_incomplete_category(category: Path, name: str) -> None:
    (category / name).unlink()
    evidence = open_category(category, Published).evidence()
    assert evidence["complete"] is False
    assert evidence["resized"] is False
    assert evidence["counts"] != evidence["official_counts"]


def test_evidence_of_a_resized_category(category: Path) -> None:
    Image.new("RGB", (9, 8)).save(category / "train/good/002.png")
    evidence = open_category(category, Published).evidence()
    assert evidence["resized"] is True
    assert evidence["complete"] is True
    assert evidence["image_sizes"] == [[8, 9], [HEIGHT, WIDTH]]


def test_evidence_compares_nothing_where_nothing_is_official(category: Path) -> None:
    evidence = open_category(category, Folder).evidence()
    compared = ("official_counts", "complete", "official_image_size", "resized")
    assert {name: evidence[name] for name in compared} == dict.fromkeys(compared)


def test_a_damaged_image_outside_the_subset_is_refused_by_name_too(category: Path) -> None:
    (category / "train/good/004.png").write_text("no image")
    data = open_category(category, train_images=2)
    with pytest.raises(UserError, match=r"004\.png"):
        data.evidence()


def test_a_single_last_image_is_dropped_only_where_batch_norm_could_not_use_it() -> None:
    assert [len(batch) for batch in BatchOrder(9, 4, 0, fewest=2)] == [4, 4]
    assert [len(batch) for batch in BatchOrder(10, 4, 0, fewest=2)] == [4, 4, 2]
    assert [len(batch) for batch in BatchOrder(9, 4, 0)] == [4, 4, 1]
    assert len(BatchOrder(9, 4, 0, fewest=2)) == 2
    assert len(BatchOrder(1, 4, 0, fewest=2)) == 1
