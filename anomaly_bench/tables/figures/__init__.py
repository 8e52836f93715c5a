"""Figures: heat-map sheets, score histograms and sweep curves. Nothing outside this folder loads matplotlib."""
