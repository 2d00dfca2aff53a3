"""Flow maps of a few instances of a run, selected by rule, for its page."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dpc.flow.flow_map import fits_a_map, flow_map, map_arrays, save_arrays
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import MethodSettings
from dpc.tasks import Task
from dpc.types import Example, Record


def _fired(record: Record) -> bool:
    return record.answer.second is not None


# What a reader wants to see side by side, first to last.
_CHOICES: tuple[Callable[[Record], bool], ...] = (
    lambda r: _fired(r) and r.score_final.correct and not r.score_first.correct,
    lambda r: _fired(r) and r.score_first.correct and not r.score_final.correct,
    lambda r: _fired(r) and not r.score_first.correct and not r.score_final.correct,
    lambda r: not _fired(r) and r.score_final.correct,
    lambda r: not _fired(r) and not r.score_final.correct,
)


def choose_instances(records: Sequence[Record], fits: Callable[[Record], bool]) -> list[Record]:
    """The first record of each kind: fixed, broken, triggered and still wrong, right or wrong without a second pass.

    Records that do not ``fit``, and kinds without a record, are left out.
    """
    found = (next((r for r in records if kind(r) and fits(r)), None) for kind in _CHOICES)
    return [record for record in found if record is not None]


def write_maps(
    lm: FrozenLM,
    prompt: SoftPrompt,
    task: Task,
    examples: Sequence[Example],
    records: Sequence[Record],
    settings: MethodSettings,
    directory: Path,
) -> list[Path]:
    """Write ``0.npz``, ``1.npz`` ... with the maps of the chosen instances' first answers; other maps there go.

    Of each kind it is the first in the order of ``examples``, and fits where it has a token and a map of it is small.
    A file is ``flow_map.map_arrays`` with ``example_id``, and ``made_from``, a digest of all that it depends on: one
    that is there already is not made again.
    """
    by_id = {example.id: example for example in examples}
    place_of = {name: place for place, name in enumerate(by_id)}
    in_order = sorted(records, key=lambda record: place_of[record.example_id])

    def tokens(record: Record) -> tuple[list[int], tuple[int, ...]]:
        return lm.encode(task.prompt(by_id[record.example_id])), record.answer.first.ids

    def fits(record: Record) -> bool:
        question, rationale = tokens(record)
        return bool(rationale) and fits_a_map(lm, len(prompt.vectors), len(question), len(rationale))

    written = []
    for place, record in enumerate(choose_instances(in_order, fits)):
        path, (question, rationale) = directory / f"{place}.npz", tokens(record)
        what = [lm.revision, str(lm.dtype), prompt.sha256, settings.head_reduction, question, rationale]
        made_from = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        written.append(path)
        if _read_label(path, "made_from") == made_from and _read_label(path, "example_id") == record.example_id:
            continue
        flow = flow_map(lm, prompt.vectors, question, rationale, None, settings.head_reduction)
        arrays = map_arrays(flow, lm.token_texts([*question, *rationale]))
        save_arrays(path, arrays | {"example_id": np.array(record.example_id), "made_from": np.array(made_from)})
    for path in set(directory.glob("*.npz")) - set(written):
        path.unlink()
    return written


def _read_label(path: Path, name: str) -> str | None:
    """One text of a file; None where there is no file, or no whole one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays[name])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
