"""Measured against printed: a benchmark of knowledge-distillation anomaly detectors."""

__version__ = "0.1.0"
