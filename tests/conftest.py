"""Settings of all tests: offline, and on one thread, so that sums are computed in the same order everywhere."""

from __future__ import annotations

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# For the subprocesses of tests, which import torch.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored, and subprocesses of tests would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    torch.set_num_threads(1)
