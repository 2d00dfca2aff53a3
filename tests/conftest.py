"""Settings of all tests: offline, and on one thread, so that sums are computed in the same order everywhere."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# For the subprocesses of tests, which import torch.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure() -> None:
    import torch

    torch.set_num_threads(1)
