"""A device that cannot be used is refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpc.errors import UserError
from dpc.model.device import device_of


@pytest.mark.parametrize(
    ("name", "reason"),
    [("meta", "meta tensors"), ("hpu", "No module named"), ("nonsense", "Expected one of")],
)
def test_a_device_that_cannot_be_used_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"--device {name}: can't be used here \(.*{reason}.*\); expected auto, cpu"):
        device_of(name)


def test_a_device_without_free_memory_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(torch.OutOfMemoryError):
        device_of("cpu")
