"""A run on disk: records, results computed from them, comparison of two runs, export to other tools."""
