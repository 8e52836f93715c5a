"""The commands that use a finished run, `predict` and `export`, and `score`, which takes anybody's maps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from anomaly_bench.arguments import places_of
from anomaly_bench.errors import UserError

if TYPE_CHECKING:
    from anomaly_bench.bench.places import Places
    from anomaly_bench.bench.predictor import Predictor


def predict_command(arguments: Namespace) -> int:
    """`anomaly-bench predict`."""
    from anomaly_bench.bench.predictor import find_run, load_predictor
    from anomaly_bench.bench.store import Store
    from anomaly_bench.overlays import colour_limits
    from anomaly_bench.predict import find_images, score_files, write_scores

    places, out = places_of(arguments), Path(arguments.out)
    store = Store(places.results)
    images = find_images([Path(name) for name in arguments.images], out)
    predictor = load_predictor(find_run(store, arguments.run), places)
    limits = colour_limits(predictor, store) if not arguments.no_overlays else None
    threshold = None if arguments.fpr is None else _threshold(predictor, places, arguments.fpr)
    scores = score_files(predictor, images, out, limits)
    if not scores.rows:
        raise UserError(" ".join(scores.unread))
    written = write_scores(scores.rows, out, predictor, threshold)
    above = "" if threshold is None else f", {sum(row.score > threshold for row in scores.rows)} above the threshold"
    print(f"{len(scores.rows)} images scored{above}: {written}")
    for problem in scores.unread:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if scores.unread else 0


def _threshold(predictor: Predictor, places: Places, false_positive_rate: float) -> float:
    from anomaly_bench.bench.predictor import check_rate, threshold_at, training_scores

    check_rate(false_positive_rate)
    scores = training_scores(predictor, places)
    threshold = threshold_at(scores, false_positive_rate)
    above = int((scores > threshold).sum())
    print(f"threshold {threshold:.6g}: {above} of {len(scores)} training images are above it; expect more of new ones, "
          "for the run was trained on these")  # fmt: skip
    return threshold


def export_command(arguments: Namespace) -> int:
    """`anomaly-bench export`."""
    from anomaly_bench.bench.export import ExportFailedError, export_onnx
    from anomaly_bench.bench.predictor import find_run, load_predictor
    from anomaly_bench.bench.store import Store

    places, out = places_of(arguments), Path(arguments.out)
    predictor = load_predictor(find_run(Store(places.results), arguments.run), places, device="cpu")
    try:
        checked = export_onnx(predictor, out)
    except ExportFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{out}: run {predictor.spec.run_id} ({predictor.spec.title}), images of "
          f"{predictor.image_size}x{predictor.image_size}")  # fmt: skip
    print(f"  largest difference to PyTorch in float32, over {checked.images} photographs: maps {checked.maps:.2g}, "
          f"scores {checked.scores:.2g}")  # fmt: skip
    print(f"  of the scores to `predict`, which runs in {predictor.precision}: {checked.own_precision:.2g}")
    return 0


def score_command(arguments: Namespace) -> int:
    """`anomaly-bench score`."""
    from anomaly_bench.bench.texts import replace_text, to_text
    from anomaly_bench.listing import metric_lines
    from anomaly_bench.score import score_folders

    scored = score_folders(Path(arguments.maps), Path(arguments.masks))
    if arguments.out is not None:
        try:
            replace_text(Path(arguments.out), to_text(scored))
        except OSError as error:
            raise UserError(f"cannot write {arguments.out} ({error.strerror}); choose another --out.") from error
    print(f"{scored['images']} images, {scored['anomalous_images']} of them anomalous")
    if scored["empty_masks"]:
        print(f"note: empty masks, whose images count as normal: {scored['empty_masks']}", file=sys.stderr)
    print("\n".join(metric_lines(scored, scored["undefined"])))
    return 0
