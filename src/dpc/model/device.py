"""The device that a model is loaded to, and the type of its weights there."""

from __future__ import annotations

from typing import Literal

import torch

from dpc.errors import UserError

_TYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_of(name: str) -> torch.device:
    """The device called ``name``, where ``auto`` is a CUDA device if there is one and else the CPU.

    Raises ``UserError`` if torch can't compute on it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except torch.OutOfMemoryError:
        raise
    # A torch build without the device raises AssertionError or ImportError, a wrong name raises RuntimeError.
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0][:120]
        raise UserError(
            f"--device {name}: can't be used here ({reason}); expected auto, cpu, cuda or cuda:N"
        ) from error
    return device


def check_dtype(name: str) -> None:
    """Raise ``UserError`` if there is no type called ``name``."""
    if name != "auto" and name not in _TYPES:
        raise UserError(f"--dtype {name}: expected one of auto, {', '.join(_TYPES)}")


def dtype_for(name: str, device: torch.device, stored: torch.dtype | None) -> torch.dtype | Literal["auto"]:
    """The type called ``name``. ``auto`` is the type that a checkpoint is stored in on a CUDA device, else float32.

    stored: the type of the checkpoint, None where its configuration does not name one; then ``auto`` stays ``auto`` on
    a CUDA device, and transformers finds it in the files.
    """
    if name != "auto":
        return _TYPES[name]
    return (stored or "auto") if device.type == "cuda" else torch.float32
