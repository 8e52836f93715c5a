"""CIFAR-10 from small batch files: what a category makes of them, and whether they are the official ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10 as TORCHVISION

from anomaly_bench.cli import main
from anomaly_bench.data import cifar10
from anomaly_bench.data.base import Counts, Official
from anomaly_bench.data.check import check_data_set
from anomaly_bench.data.cifar10 import CATEGORIES, FOLDER, MD5, Cifar10
from anomaly_bench.errors import UserError
from tests.data.cifar import TEST_LABELS, TRAIN_LABELS, batch, image, write, write_all


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    write_all(tmp_path / FOLDER)
    return tmp_path


@pytest.fixture
def verified(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same files, taken for the official ones."""
    sums = {name: hashlib.md5((data_root / FOLDER / name).read_bytes()).hexdigest() for name in MD5}
    monkeypatch.setattr(cifar10, "MD5", sums)
    return data_root


# What a category sees.


def test_a_class_is_trained_on_its_own_images_and_tested_on_all(verified: Path) -> None:
    data = Cifar10(verified, "cat", image_size=32)
    data.setup()
    assert data.train_pixels is not None
    assert data.test_pixels is not None
    truth = data.ground_truth
    assert truth is not None
    files = [f"data_batch_{number}" for number in range(1, 6)]
    names = [f"train/cat/{file}-0000{index}" for file in files for index in (1, 2)]
    assert [sample.name for sample in data.samples["train"]] == names
    expected = np.stack([image(file, index) for file in files for index in (1, 2)])
    np.testing.assert_array_equal(data.train_pixels.numpy(), expected)
    order = [1, 6, 0, 2, 4, 3, 5]  # airplane, automobile, cat, cat, dog, truck, truck
    kinds = ["airplane", "automobile", "good", "good", "dog", "truck", "truck"]
    assert [sample.defect for sample in truth.samples] == kinds
    assert [sample.name for sample in truth.samples] == [
        f"test/{CATEGORIES[TEST_LABELS[index]]}/test_batch-0000{index}" for index in order
    ]
    np.testing.assert_array_equal(data.test_pixels.numpy(), np.stack([image("test_batch", index) for index in order]))
    assert truth.labels.tolist() == [kind != "good" for kind in kinds]
    assert truth.masks is None
    assert np.isnan(truth.shares).tolist() == truth.labels.tolist()
    assert data.counts() == Counts(train=10, test_good=2, test_defective=5, masks=0)


def test_another_size_is_reached_as_files_reach_it(verified: Path, tmp_path: Path) -> None:
    data = Cifar10(verified, "truck", image_size=50)
    data.setup()
    assert data.train_pixels is not None
    expected = Image.fromarray(image("data_batch_1", 3)).resize((50, 50), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.train_pixels[0].numpy(), np.array(expected))
    assert (Cifar10.default_image_size, data.image_sizes()) == (32, [(32, 32)])


@pytest.mark.parametrize("count", [5, 6])
def test_a_test_subset_has_every_class_that_there_is(count: int, verified: Path) -> None:
    subsets = []
    for _ in range(2):
        data = Cifar10(verified, "cat", image_size=32, train_images=4, test_images=count)
        data.setup()
        assert data.ground_truth is not None
        assert data.train_pixels is not None
        assert len(data.train_pixels) == 4
        subsets.append(data.ground_truth.samples)
    assert subsets[0] == subsets[1]
    assert {sample.defect for sample in subsets[0]} == {"good", "airplane", "automobile", "dog", "truck"}
    assert len(subsets[0]) == count


def test_ten_classes_by_their_label_and_no_eleventh(tmp_path: Path) -> None:
    assert Cifar10.category_names(tmp_path) == list(CATEGORIES)
    assert CATEGORIES[3] == "cat"
    with pytest.raises(UserError, match=r"unknown category 'plane'; did you mean 'airplane'\?"):
        Cifar10.check_category(tmp_path, "plane")


@pytest.mark.parametrize(
    ("inside", "remedy"), [(False, "correct --data-root (or ANOMALY_BENCH_DATA)"), (True, "pass --data-root ")]
)
def test_where_there_is_no_cifar10_one_sentence_says_where_it_belongs(
    inside: bool, remedy: str, data_root: Path
) -> None:
    place = data_root / FOLDER if inside else data_root / "elsewhere"
    with pytest.raises(UserError) as caught:
        Cifar10(place, "cat")
    assert str(caught.value).startswith(f"no CIFAR-10 in {place}: expected {place / FOLDER}; {remedy}")


# The manifest.


def manifest(data_root: Path, category: str = "cat") -> str:
    return Cifar10(data_root, category, allow_unverified=True).manifest_sha256()


def test_the_manifest_is_over_pixels_and_labels_and_nothing_else(data_root: Path) -> None:
    lines = []
    for name, labels in [
        *((f"data_batch_{number}", TRAIN_LABELS) for number in range(1, 6)),
        ("test_batch", TEST_LABELS),
    ]:
        for index, label in enumerate(labels):
            if name == "test_batch" or label == 3:
                split = "test" if name == "test_batch" else "train"
                digest = hashlib.sha256(image(name, index).tobytes()).hexdigest()
                lines.append((f"{split}/{CATEGORIES[label]}/{name}-{index:05}", digest))
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(lines))
    before = manifest(data_root)
    assert before == hashlib.sha256(text.encode()).hexdigest()
    write(data_root / FOLDER, "data_batch_2", batch("data_batch_2") | {"filenames": [], "batch_label": "other"})
    assert manifest(data_root) == before
    assert manifest(data_root, "dog") != before


@pytest.mark.parametrize("change", ["pixel", "label", "unused"])
def test_the_manifest_changes_with_what_the_category_uses(change: str, data_root: Path) -> None:
    before, changed = manifest(data_root), batch("data_batch_2")
    if change == "label":
        changed["labels"] = [2, 3, 0, 9, 0]
    else:
        changed["data"][1 if change == "pixel" else 0, 77] ^= 1  # the first image is no cat
    write(data_root / FOLDER, "data_batch_2", changed)
    assert (manifest(data_root) != before) is (change != "unused")


# Official or not.


def test_the_sums_are_those_that_torchvision_downloads_by() -> None:
    assert list(MD5.items()) == [tuple(entry) for entry in [*TORCHVISION.train_list, *TORCHVISION.test_list]]


def test_files_with_other_sums_are_refused_with_the_remedy(data_root: Path) -> None:
    for use in (Cifar10.setup, Cifar10.evidence, Cifar10.manifest_sha256):
        with pytest.raises(UserError) as caught:
            use(Cifar10(data_root, "cat", image_size=32))
        assert str(caught.value) == (
            f"{data_root / FOLDER / 'data_batch_1'} is not CIFAR-10's official file (its MD5 sum differs); "
            "replace it, or pass --allow-unverified-data to use it all the same."
        )


def test_results_from_them_say_so(data_root: Path) -> None:
    evidence = Cifar10(data_root, "cat", allow_unverified=True).evidence()
    assert evidence["counts"] == {"train": 10, "test_good": 2, "test_defective": 5, "masks": 0}
    assert evidence["official_counts"] == {"train": 5000, "test_good": 1000, "test_defective": 9000, "masks": 0}
    assert (evidence["complete"], evidence["verified"], evidence["resized"]) == (False, False, False)


def test_right_counts_do_not_make_wrong_files_complete(verified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(train=10, test_good=2, test_defective=5, masks=0)
    monkeypatch.setattr(Cifar10, "official", classmethod(lambda cls, category: Official(counts, (32, 32))))
    evidence = Cifar10(verified, "cat").evidence()
    assert (evidence["complete"], evidence["verified"]) == (True, True)
    changed = batch("test_batch")
    changed["data"][0, 0] ^= 1
    write(verified / FOLDER, "test_batch", changed)
    evidence = Cifar10(verified, "cat", allow_unverified=True).evidence()
    assert (evidence["complete"], evidence["verified"]) == (False, False)
    [report] = [report for report in check_data_set(Cifar10, verified) if report.category == "cat"]
    assert report.status == "UNVERIFIED; 1 PROBLEM"
    allowed = {report.category: report for report in check_data_set(Cifar10, verified, allow_unverified=True)}
    assert (allowed["cat"].status, allowed["cat"].sound) == ("UNVERIFIED", False)


def test_data_check_counts_them_and_takes_the_flag(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "check", "cifar10", "--json", "--data-root", str(data_root)]
    assert main(words) == 1
    refused = {report["category"]: report for report in json.loads(capsys.readouterr().out)}
    assert list(refused) == list(CATEGORIES)
    assert refused["cat"]["status"].startswith("UNVERIFIED, INCOMPLETE: train 10 of 5000, test good 2 of 1000")
    assert refused["cat"]["status"].endswith("; 1 PROBLEM")
    assert "pass --allow-unverified-data" in refused["cat"]["problems"][0]
    assert main([*words, "--allow-unverified-data"]) == 1, "still incomplete"
    allowed = {report["category"]: report for report in json.loads(capsys.readouterr().out)}
    assert allowed["cat"]["problems"] == []
    assert allowed["cat"]["verified"] is False
    assert allowed["cat"]["manifest_sha256"] == manifest(data_root)
    assert "data_batch_1, data_batch_2" in " ".join(allowed["cat"]["notes"])


@pytest.mark.parametrize("command", ["run --method rd --dataset cifar10 --category cat", "table fmm_scsatt/table1"])
def test_run_and_table_know_the_flag(command: str) -> None:
    from anomaly_bench.cli import build_parser

    parser, words = build_parser(), command.split()
    for given in ([], ["--allow-unverified-data"]):
        assert parser.parse_args([*words, *given])[words[0]].allow_unverified_data is bool(given)
