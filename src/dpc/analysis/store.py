"""Measurements of instances on disk, under a digest of what they were made from. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int

from dpc.files import write_atomically

Array = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class InstanceFlow:
    """The flow of information in one instance, Eqs 2 to 13.

    to_question, to_rationale: ``S_pq(l)`` and ``S_pr(l)``, a value for each of ``layers``, those with softmax
    attention. profile: ``S_acc(j)`` over the shallow
    layers; concentration: its largest value over its mean, which Eq 7 compares with k. influence: ``s_i``.
    late_flow, beta, ratio: ``S_late``, the mean of ``s_i`` over the early rationale, and R.
    """

    to_question: Float[Array, " layer"]
    to_rationale: Float[Array, " layer"]
    profile: Float[Array, " prompt"]
    influence: Float[Array, " rationale"]
    concentration: Float[Array, ""]
    late_flow: Float[Array, ""]
    beta: Float[Array, ""]
    ratio: Float[Array, ""]
    layers: Int[Array, " layer"]


@dataclass(frozen=True, slots=True, eq=False)
class InstanceMap:
    """Whole heat maps of one instance, first averaged over the shallow layers, then of the last layer.

    Rows are question and rationale, columns the whole sequence ``[p | q | r]``. attention: mean over heads.
    tokens: the text of each column, virtual tokens as ``p0``, ``p1`` and so on. lengths: of the
    three groups.
    """

    saliency: Float[Array, "depth=2 row column"]
    attention: Float[Array, "depth=2 row column"]
    tokens: Array
    lengths: Int[Array, "group=3"]


T = TypeVar("T", InstanceFlow, InstanceMap)


@dataclass(frozen=True, slots=True)
class Store:
    """Measurements in ``path``, by what they were made from."""

    path: Path

    def _file(self, kind: type[T], made_from: Mapping[str, Any]) -> Path:
        text = json.dumps([kind.__name__, made_from], sort_keys=True)
        return self.path / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def load(self, kind: type[T], made_from: Mapping[str, Any]) -> T | None:
        """The measurement made from these things; None where there is none, or its file is damaged."""
        try:
            content = BytesIO(self._file(kind, made_from).read_bytes())
            with np.load(content, allow_pickle=False) as arrays:
                return kind(**arrays)
        except (OSError, ValueError, TypeError, KeyError, BadZipFile):
            return None

    def save(self, value: T, made_from: Mapping[str, Any]) -> None:
        """Keep a measurement. Raises ``UserError`` where it can't be written."""
        content = BytesIO()
        np.savez_compressed(content, **asdict(value))
        write_atomically(self._file(type(value), made_from), content.getvalue())
