"""Exact metrics of anomaly detection, on numpy arrays. `torchmetric`, imported by name, wraps them for torch."""

from anomaly_bench.metrics.panel import METRIC_KEYS, METRICS_REVISION, Panel, anomaly_panel
from anomaly_bench.metrics.pixels import NonFiniteError

__all__ = ["METRICS_REVISION", "METRIC_KEYS", "NonFiniteError", "Panel", "anomaly_panel"]
