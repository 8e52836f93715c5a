"""Onlookers see what the record says, change no number, and cannot stop a run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from anomaly_bench.bench import train as train_module
from anomaly_bench.bench import wandb_run
from anomaly_bench.bench.execute import RunFailedError, execute
from anomaly_bench.bench.onlookers import Onlookers
from anomaly_bench.bench.places import Places
from anomaly_bench.bench.profiles import load_profile
from anomaly_bench.bench.progress import TrainingDivergedError
from anomaly_bench.bench.resolve import resolve
from anomaly_bench.bench.spec import EvalSpec
from anomaly_bench.bench.store import Record, Store, scores_name
from anomaly_bench.bench.wandb_run import ALL_BUT_SEED, all_but_seed, in_colours
from anomaly_bench.errors import UserError
from tests.conftest import tiny_spec
from tests.wandb_folder import LoggedRun, read_runs

SPEC = tiny_spec(epochs=2, batch_size=4)
OFFLINE = Onlookers(wandb="offline", profile="smoke", groups={SPEC.run_id: "fmm_scsatt/table1"})


def watched(places: Places, onlookers: Onlookers, name: str = "results") -> Places:
    results = places.results.parent / name
    return replace(places, results=results, conduct=replace(places.conduct, onlookers=onlookers))


def run(places: Places) -> Record:
    return execute(SPEC, places, Store(places.results))


def only_run(results: Path) -> LoggedRun:
    (logged,) = read_runs(results)
    return logged


def curves(places: Places) -> list[dict[str, float]]:
    text = (Store(places.results).folder(SPEC.run_id) / "curves.csv").read_text()
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def test_a_wandb_run_read_back_says_what_the_record_says(places: Places) -> None:
    there = watched(places, OFFLINE)
    record = run(there)
    logged = only_run(there.results)
    assert (logged.run.run_group, logged.run.job_type) == ("fmm_scsatt/table1", "rd")
    assert list(logged.run.tags) == ["synthetic", "brick", "smoke"]
    spec = json.loads(json.dumps(SPEC.as_json()))
    assert {name: logged.config[name] for name in spec} == spec
    assert logged.config["run_id"] == SPEC.run_id
    assert logged.config[ALL_BUT_SEED] == all_but_seed(SPEC, "smoke")
    told = {name: logged.summary[name] for name in record.metrics}
    assert told == record.metrics
    cost = {name.removeprefix("cost/"): value for name, value in logged.summary.items() if name.startswith("cost/")}
    assert cost == record.cost
    assert logged.exit_code == 0


def test_bars_are_means_over_seeds_and_over_nothing_else() -> None:
    def label(method: str = "rd", category: str = "bottle", seed: int = 0, **settings: object) -> str:
        spec = resolve(method, "mvtec", category, load_profile("lite"), seed=seed, settings=settings)[0]
        return all_but_seed(spec, "lite")

    assert label().startswith("rd mvtec/bottle, lite [")
    assert label(seed=1) == label()
    others = [label("fmm_scsatt"), label(category="cable"), label(loss_form="pixel"), label(epochs=7)]
    assert len({label(), *others}) == 5


def test_losses_are_told_term_by_term_as_the_curves_have_them(places: Places) -> None:
    there = watched(places, OFFLINE)
    run(there)
    logged = only_run(there.results)
    losses = [
        {name: row[name] for name in ("epoch", "distillation", "loss")} for row in logged.history if "loss" in row
    ]
    assert losses == curves(there)
    paces = [row for row in logged.history if "images_per_second" in row]
    assert [(row["epoch"], row["lr"]) for row in paces] == [(1, SPEC.protocol.lr), (2, SPEC.protocol.lr)]
    assert all(row["images_per_second"] > 0 for row in paces)


def test_heat_maps_show_a_few_images_with_the_scores_that_are_stored(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_run, "HEAT_MAPS", 5)
    there = watched(places, OFFLINE)
    run(there)
    logged = only_run(there.results)
    rows = logged.rows("heat_maps")
    assert len(rows) == 5
    text = (Store(there.results).folder(SPEC.run_id) / scores_name(EvalSpec())).read_text()
    stored = {row["path"]: row for row in csv.DictReader(io.StringIO(text))}
    for row in rows:
        assert row["score"] == float(stored[row["image"]]["score"])
        assert (row["defect"], int(row["anomalous"])) == (
            stored[row["image"]]["defect"],
            int(stored[row["image"]]["label"]),
        )
    assert {row["anomalous"] for row in rows} == {True, False}
    files = logged.artifacts[f"run-{logged.run.run_id}-heat_maps"]
    for row in rows:
        source, mask, shown = (np.asarray(Image.open(files[row[name]["path"]])) for name in ("input", "mask", "map"))
        assert source.shape == shown.shape == (64, 64, 3)
        assert (mask > 0).mean() == float(stored[row["image"]]["share_evaluated"])
        assert set(np.unique(mask)) <= {0, 255}


def test_colours_are_on_one_scale_for_all_maps() -> None:
    maps = np.array([[[0.0, 1.0]], [[1.0, 4.0]]], dtype=np.float32)
    colours = in_colours(maps)
    assert colours.shape == (2, 1, 2, 3)
    assert (colours[0, 0, 1] == colours[1, 0, 0]).all()
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 3
    assert in_colours(np.ones((1, 2, 2), np.float32)).min() == 0  # constant maps are no division by zero


def test_the_record_is_an_artifact_that_later_evaluations_leave_alone(places: Places) -> None:
    there = watched(places, OFFLINE)
    run(there)
    logged, folder = only_run(there.results), Store(there.results).folder(SPEC.run_id)
    files = logged.artifacts[f"record-{SPEC.run_id}"]
    assert sorted(files) == sorted(["record.json", "curves.csv", next(folder.glob("scores-*")).name])
    for name, path in files.items():
        assert Path(path).read_bytes() == (folder / name).read_bytes()
        assert Path(path).parent != folder


@pytest.mark.parametrize(
    "onlookers",
    [OFFLINE, Onlookers(logger="csv"), Onlookers(logger="tensorboard")],
    ids=["wandb", "csv", "tensorboard"],
)
def test_onlookers_change_no_number(onlookers: Onlookers, places: Places) -> None:
    alone, seen = watched(places, Onlookers(), "alone"), watched(places, onlookers, "seen")
    records = [run(alone), run(seen)]
    assert records[0].metrics == records[1].metrics
    one, other = (hashes(Store(there.results).folder(SPEC.run_id)) for there in (alone, seen))
    assert one == other


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.iterdir() if path.name != "record.json"]  # which holds seconds
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_onlookers_draw_no_random_number(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []

    def remember(*_: Any) -> tuple[torch.Tensor, Any]:
        states.append((torch.get_rng_state(), np.random.get_state()))
        raise TrainingDivergedError("it ends where training begins")

    monkeypatch.setattr(train_module, "_predict", remember)
    for name, onlookers in (("alone", Onlookers()), ("seen", replace(OFFLINE, logger="csv"))):
        with pytest.raises(RunFailedError):
            run(watched(places, onlookers, name))
    assert torch.equal(states[0][0], states[1][0])
    assert (states[0][1][1] == states[1][1][1]).all()


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("no\nspace left")


@pytest.mark.parametrize(
    ("where", "name"),
    [(wandb, "init"), (wandb.Run, "log"), (wandb.Run, "define_metric"), (wandb.Run, "log_artifact"), (wandb, "Table"),
     (wandb.Run, "finish"), (CSVLogger, "log_metrics"), (CSVLogger, "save")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
def test_an_onlooker_that_fails_is_named_once_and_the_run_ends_well(
    where: object, name: str, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(where, name, broken)
    there = watched(places, replace(OFFLINE, logger="csv"))
    record = run(there)
    assert Store(there.results).load(SPEC.run_id) == record
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    who = "the csv logger" if where is CSVLogger else "Weights & Biases"
    assert said == [f"warning: {who} has failed (no space left); all else goes on without it."]


@pytest.mark.parametrize("folder", ["wandb", "logs"])
def test_a_folder_that_cannot_be_used_stops_no_run(
    folder: str, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    there = watched(places, replace(OFFLINE, logger="csv"))
    there.results.mkdir()
    (there.results / folder).write_text("a file stands where the folder should be")
    run(there)
    assert capsys.readouterr().err.count("has failed") == 1
    assert len(read_runs(there.results)) == (folder != "wandb")


def test_a_run_that_fails_fails_in_wandb_too(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any) -> None:
        raise TrainingDivergedError("the loss is nan in epoch 1")

    monkeypatch.setattr(train_module, "_predict", diverge)
    there = watched(places, OFFLINE)
    with pytest.raises(RunFailedError):
        run(there)
    logged = only_run(there.results)
    assert logged.exit_code == 1
    assert "image_auroc" not in logged.summary


def test_lightnings_csv_has_the_curves_and_the_spec(places: Places) -> None:
    there = watched(places, Onlookers(logger="csv"))
    run(there)
    folder = there.results / "logs" / SPEC.run_id / "version_0"
    rows = list(csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())))
    losses = [{name: float(row[name]) for name in ("epoch", "distillation", "loss")} for row in rows if row["loss"]]
    assert losses == curves(there)
    assert [float(row["lr"]) for row in rows if row["lr"]] == [SPEC.protocol.lr] * 2
    assert "method: rd" in (folder / "hparams.yaml").read_text()


def test_tensorboard_has_the_curves(places: Places) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    there = watched(places, Onlookers(logger="tensorboard"))
    run(there)
    events = EventAccumulator(str(there.results / "logs" / SPEC.run_id / "version_0"))
    events.Reload()
    shown = [event.value for event in events.Scalars("loss")]
    assert shown == [float(np.float32(row["loss"])) for row in curves(there)]


def test_onlookers_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(OFFLINE)) == OFFLINE


def without_tensorboard(name: str) -> object | None:
    return None if name == "tensorboard" else object()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Onlookers(wandb="online"),
            "Weights & Biases online needs a key; set WANDB_API_KEY, run `wandb login`",
        ),
        (lambda: Onlookers(wandb="ofline"), "unknown --wandb 'ofline'; did you mean 'offline'?"),  # type: ignore[arg-type]
        (lambda: Onlookers(logger="tensorboard"), "pip install tensorboard"),
    ],
)
def test_what_cannot_work_is_said_before_any_training(
    make: Callable[[], Onlookers], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_bench.bench.onlookers.find_spec", without_tensorboard)
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        make().check()
