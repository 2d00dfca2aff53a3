"""Tests run offline, and on one thread: the same sums in the same order on every machine."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Read by the commands that tests start, which import torch for themselves.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure() -> None:
    import torch

    torch.set_num_threads(1)
