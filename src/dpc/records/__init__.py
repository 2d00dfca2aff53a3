"""A run directory: records, the results computed from them, comparison of runs, export to other tools."""
