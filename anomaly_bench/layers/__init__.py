"""Building blocks with their equations; no Lightning, no files, nothing of the other packages."""
