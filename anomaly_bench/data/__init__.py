"""The data sets: one module each. A module's last line is `DATASET = ...`, and its name is the data set's name."""
