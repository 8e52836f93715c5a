"""What Weights & Biases is told of a run. Everything here may raise: `watch.Guard` stands around it.

A W&B run has the RunSpec as its configuration (with `run_id`, and `all_but_seed` to group by), its table as group, its
method as job type; data set, category and profile are its tags. Its summary has the record's numbers, metrics by their
names and costs as `cost/<name>`.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger
from numpy.typing import NDArray

from anomaly_bench.bench.evaluate import StageMaps, fuse_maps
from anomaly_bench.bench.few_images import shown_metrics
from anomaly_bench.bench.onlookers import Onlookers
from anomaly_bench.bench.spec import EvalSpec, RunSpec
from anomaly_bench.bench.store import Record, scores_name
from anomaly_bench.data.base import AnomalyDataModule, GroundTruth
from anomaly_bench.data.subset import stratified
from anomaly_bench.errors import UserError

if TYPE_CHECKING:
    import wandb

PROJECT = "anomaly_bench"
ALL_BUT_SEED = "all_but_seed"  # key of the configuration
HEAT_MAPS = 8  # images in the table of heat maps
ARTIFACT_FILES = ("record.json", "curves.csv")
# W&B waits 90 s for a server that does not answer, and for ever at the end: a table's other runs are waiting too.
INIT_SECONDS, FINISH_SECONDS = 30.0, 300.0
LONGEST_TAG, LONGEST_NAME = 64, 128  # what W&B takes


def project_name() -> str:
    """W&B's own WANDB_PROJECT, or ours."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def require_key() -> None:
    """Raise UserError where no key for W&B's server is at hand; asks nobody, and no network."""
    import wandb

    remedy = "set WANDB_API_KEY, run `wandb login`, or use offline"
    try:
        found = wandb.login(prompt=False, verify=False)
    except Exception as error:
        raise UserError(f"Weights & Biases refuses the key ({' '.join(str(error).split())}); {remedy}.") from error
    if not found:
        raise UserError(f"Weights & Biases online needs a key; {remedy}.")


def wandb_folder(results: Path) -> Path:
    """The folder in which W&B makes its `wandb/`, there and writable.

    Raises:
        OSError: it is not; W&B itself would write to some other place without a word.
    """
    parent = Path(os.environ.get("WANDB_DIR") or results)
    (parent / "wandb").mkdir(parents=True, exist_ok=True)
    if not os.access(parent / "wandb", os.W_OK):
        raise PermissionError(f"{parent / 'wandb'} cannot be written to")
    return parent


def open_run(
    mode: str,
    results: Path,
    *,
    name: str,
    job_type: str,
    tags: Sequence[str],
    group: str | None,
    config: dict[str, Any],
) -> wandb.Run:
    """A new W&B run that prints nothing and leaves any other one of this process alone."""
    import wandb

    return wandb.init(
        mode="online" if mode == "online" else "offline",
        project=project_name(),
        dir=wandb_folder(results),
        name=name[:LONGEST_NAME],
        group=group,
        job_type=job_type,
        tags=[tag[:LONGEST_TAG] for tag in tags if tag],
        config=config,
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
        ),
    )


def open_training(onlookers: Onlookers, spec: RunSpec, results: Path) -> wandb.Run:
    """The W&B run of one training."""
    run = open_run(
        onlookers.wandb,
        results,
        name=spec.title,
        job_type=spec.method,
        tags=[spec.dataset, spec.category, onlookers.profile],
        group=onlookers.groups.get(spec.run_id),
        config={"run_id": spec.run_id, ALL_BUT_SEED: all_but_seed(spec, onlookers.profile), **spec.as_json()},
    )
    run.define_metric("*", step_metric="epoch")
    return run


def all_but_seed(spec: RunSpec, profile: str) -> str:
    """What runs have in common whose mean may be shown: in words, and by an id for the protocol that is not said."""
    words = spec.title.removesuffix(f" seed {spec.seed}")
    return f"{words}, {profile} [{spec.any_seed().run_id[:8]}]"


def epoch_logger(run: wandb.Run) -> Logger:
    """Lightning's logger into a run that is open."""
    return WandbLogger(experiment=run, project=run.project)


def publish(run: wandb.Run, record: Record, stage_maps: StageMaps, data: AnomalyDataModule, folder: Path) -> None:
    """Summary, heat maps and the record itself, as they are in the store's `folder`."""
    run.summary.update(summary(record))
    run.log({"heat_maps": heat_maps(record, stage_maps, data, folder)})
    run.log_artifact(record_artifact(run, record, folder))


def summary(record: Record) -> dict[str, Any]:
    """The metrics of the run's own evaluation, as fractions and without those that are undefined; and its cost."""
    metrics = {name: value for name, value in shown_metrics(record, record.evaluation)[0].items() if value is not None}
    return {**metrics, **{f"cost/{name}": value for name, value in record.cost.items()}}


def record_artifact(run: wandb.Run, record: Record, folder: Path) -> wandb.Artifact:
    """The record with its scores and curves, copied beside the W&B run: the store's own may get more evaluations
    before `wandb sync` sends this one."""
    import wandb

    kept = Path(run.dir).parent / "record"
    kept.mkdir()
    artifact = wandb.Artifact(f"record-{record.spec.run_id}", type="record")
    for name in (*ARTIFACT_FILES, scores_name(_own_rule(record))):
        shutil.copyfile(folder / name, kept / name)
        artifact.add_file(str(kept / name), policy="immutable", skip_cache=True)
    return artifact


def _own_rule(record: Record) -> EvalSpec:
    return EvalSpec(**record.evaluations[record.evaluation]["spec"])


def heat_maps(record: Record, stage_maps: StageMaps, data: AnomalyDataModule, folder: Path) -> wandb.Table:
    """A line for each of at most `HEAT_MAPS` test images, every defect type in turn; masks where the data have them."""
    import wandb

    assert data.ground_truth is not None
    assert data.test_pixels is not None
    truth, rule = data.ground_truth, _own_rule(record)
    shown = chosen(truth)
    maps = fuse_maps({name: maps[shown] for name, maps in stage_maps.items()}, record.spec.protocol.image_size, rule)
    scores = _scores(folder / scores_name(rule))
    columns = ["image", "defect", "anomalous", "score", "input", *(["mask"] if truth.masks is not None else []), "map"]
    table = wandb.Table(columns=list[str | int](columns))
    for index, colours in zip(shown, in_colours(maps), strict=True):
        sample = truth.samples[index]
        masks = [] if truth.masks is None else [truth.masks[index].astype(np.uint8) * 255]
        pictures = [data.test_pixels[index].cpu().numpy(), *masks, colours]
        table.add_data(sample.name, sample.defect, sample.anomalous, scores[sample.name], *map(wandb.Image, pictures))
    return table


def chosen(truth: GroundTruth) -> list[int]:
    """Positions of the images that are shown, in the order of the data."""
    return [truth.samples.index(sample) for sample in stratified(truth.samples, HEAT_MAPS)]


def in_colours(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(N, H, W) to (N, H, W, 3), on one scale for all: from the smallest to the largest value."""
    from matplotlib import colormaps

    low, high = float(maps.min()), float(maps.max())
    scaled = (maps - low) / (high - low if high > low else 1.0)
    return np.asarray(colormaps["inferno"](scaled, bytes=True)[..., :3])


def _scores(path: Path) -> dict[str, float]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
