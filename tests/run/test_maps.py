"""The flow maps of a run: a few instances, chosen by rule, made again only where something changed."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

from dpc.flow.flow_map import flow_map
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.report.flow_data import read_flow
from dpc.run.maps import choose_instances, write_maps
from dpc.settings import MethodSettings
from dpc.tasks import get_task
from dpc.types import Answer, Cost, Decision, Example, Generation, Record, Score
from tests.tiny_models import tiny_lm


@functools.cache
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=4)


@functools.cache
def prompt() -> SoftPrompt:
    return SoftPrompt.of(torch.randn(5, lm().hidden_size, generator=torch.Generator().manual_seed(3)), lm().name)


def record(name: str, right: tuple[bool, ...]) -> Record:
    """A record whose passes are right or not; one pass, or two."""
    passes = [Generation(tuple(range(50, 56)), "", "eos") for _ in right]
    scores = [Score(each, None, "match" if each else "mismatch") for each in right]
    answer = Answer(
        passes[0], Decision(len(right) > 1, 0.5, 0.5), passes[1] if len(right) > 1 else None, Cost(1, 1, 1, 1.0)
    )
    return Record(name, "dpc", answer, scores[0], scores[-1])


KINDS = {
    "fixed": (False, True),
    "broken": (True, False),
    "still wrong": (False, False),
    "right at once": (True,),
    "wrong at once": (False,),
}


def test_the_first_of_each_kind_is_chosen() -> None:
    some = [record(f"{name} {n}", right) for n in range(3) for name, right in reversed(KINDS.items())]
    both_right = [record("both right", (True, True))]
    chosen = choose_instances([*both_right, *some], lambda r: not r.example_id.endswith("0"))
    assert [r.example_id for r in chosen] == [f"{name} 1" for name in KINDS]
    assert [r.example_id for r in choose_instances(some[:2], lambda r: True)] == ["right at once 0", "wrong at once 0"]


def test_maps_of_chosen_instances_replace_those_of_an_earlier_prompt(tmp_path: Path) -> None:
    task = get_task("zoo")
    examples = [Example(f"zoo/{n}", f"How many {n}?", "1") for n in range(3)]
    records = [record("zoo/2", (True,)), record("zoo/1", (False, True)), record("zoo/0", (True,))]

    def write(soft_prompt: SoftPrompt, made: list[Record]) -> dict[str, bytes]:
        paths = write_maps(lm(), soft_prompt, task, examples, made, MethodSettings(), tmp_path)
        assert set(paths) == set(tmp_path.iterdir())
        return {read_flow(path)[0]: path.read_bytes() for path in paths}

    before = write(prompt(), records)
    assert list(before) == ["zoo/1", "zoo/0"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert write(prompt(), records) == before
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    other = SoftPrompt.of(prompt().vectors * 2, lm().name)
    alone = write(prompt(), [records[2]])
    assert alone == {"zoo/0": before["zoo/0"]}
    assert write(other, [records[2]])["zoo/0"] != alone["zoo/0"]
    (tmp_path / "0.npz").write_bytes(b"torn")
    assert write(other, [records[2]]).keys() == {"zoo/0"}
    _, found = read_flow(tmp_path / "0.npz")
    ids = lm().encode(task.prompt(examples[0]))
    own = flow_map(lm(), other.vectors, ids, records[2].answer.first.ids)
    np.testing.assert_allclose(found.saliency, own.saliency.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.attention, own.attention.numpy(), rtol=1e-5)
    assert "".join(found.tokens[5 : 5 + len(ids)]) == task.prompt(examples[0])
