"""The stages of a run: data, tuning, calibration, evaluation; recipes, checks before a run, and its plan."""
