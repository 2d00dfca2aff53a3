"""The search of ACT's heads: a head is kept where calibrating it alone raises accuracy, and for no other reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dpc.cli import run_command
from dpc.engine import Decoder, Request
from dpc.engine.plain import greedy
from dpc.errors import UserError
from dpc.files import write_json
from dpc.methods import build_method, get_method
from dpc.methods.act_attention import Head, SinkCalibration, calibrated_attention
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt, save_adapter
from dpc.records.directory import RunDirectory
from dpc.run.act_search import (
    ACT,
    answer_calibrated,
    heads_to_try,
    keeps_answers,
    load_act,
    search_heads,
)
from dpc.run.data import Data
from dpc.run.reporter import SILENT, Progress, Reporter, Silent
from dpc.settings import ActSettings, DecodingSettings, Settings
from dpc.tasks import Task
from dpc.types import Example, Score
from tests.tiny_models import tiny_lm
from tests.tiny_rows import write_zoo_rows

NEW_TOKENS = 6
SETTINGS = Settings(
    act=ActSettings(alpha=1.5, rows=7), decoding=DecodingSettings(batch_size=4, max_new_tokens=NEW_TOKENS)
)
EXAMPLES = [Example(f"toy/{i}", "abcdefgh"[: i % 5 + 1] + "xyz"[i % 3] * 2, "x", "x") for i in range(12)]


def score(example: Example, text: str) -> Score:
    """Right where the characters' numbers add up to a multiple of three: a calibrated head may help, or not."""
    right = bool(text) and sum(map(ord, text)) % 3 == 0
    return Score(right, text[:1], "match" if right else "mismatch")


def toy_task(name: str = "toy") -> Task:
    return Task(name, "none", NEW_TOKENS, lambda *_: EXAMPLES, lambda e: e.question, lambda e: " x", score)


DATA = Data(toy_task(), "dev", "none", tuple(EXAMPLES))


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def prompt(lm: FrozenLM) -> SoftPrompt:
    return SoftPrompt.of(torch.randn(4, lm.hidden_size, generator=torch.Generator().manual_seed(0)), lm.name)


@pytest.fixture(scope="module")
def found(lm: FrozenLM, prompt: SoftPrompt, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return search(lm, prompt, tmp_path_factory.mktemp("search"))


def search(
    lm: FrozenLM, prompt: SoftPrompt, folder: Path, settings: Settings = SETTINGS, report: Reporter = SILENT
) -> dict[str, Any]:
    return search_heads(lm, prompt, folder, DATA, settings, RunDirectory(folder), report)


def right(lm: FrozenLM, prompt: SoftPrompt, heads: Sequence[Head]) -> list[bool]:
    """Which rows the method answers right with ``heads``."""
    method = build_method(get_method("act"), Setup(prompt, act_heads=tuple(heads), act=SETTINGS.act))
    rows = EXAMPLES[: SETTINGS.act.rows]
    answers = dict(method.answer(Decoder(lm), [lm.encode(e.question) for e in rows], NEW_TOKENS))
    return [score(example, answers[i].final.text).correct for i, example in enumerate(rows)]


def test_heads_are_kept_where_the_method_with_them_alone_is_more_often_right(
    lm: FrozenLM, prompt: SoftPrompt, found: dict[str, Any]
) -> None:
    baseline = right(lm, prompt, [])
    assert found["uncalibrated"] == sum(baseline) / 7
    assert [(t["layer"], t["head"]) for t in found["tried"]] == [(1, 0), (1, 1), (1, 2), (1, 3)]
    better = []
    for tried in found["tried"]:
        alone = right(lm, prompt, [(tried["layer"], tried["head"])])
        assert tried["accuracy"] == sum(alone) / 7
        pairs = list(zip(baseline, alone, strict=True))
        assert (tried["fixed"], tried["broken"]) == (pairs.count((False, True)), pairs.count((True, False)))
        better += [[tried["layer"], tried["head"]]] if sum(alone) > sum(baseline) else []
    assert found["heads"] == better
    assert 0 < len(better) < 4
    assert found["calibrated"] == sum(right(lm, prompt, [(layer, head) for layer, head in better])) / 7


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_checking_an_answer_in_one_pass_finds_what_decoding_finds(architecture: str) -> None:
    lm = tiny_lm(architecture)
    vectors = torch.randn(5, lm.hidden_size, generator=torch.Generator().manual_seed(1))
    requests = [Request(lm.encode(e.question), SoftPrompt.of(vectors, lm.name)) for e in EXAMPLES[:6]]
    uncalibrated = greedy(lm, requests, NEW_TOKENS)
    # An end token that the first answer meets, so that some answers end and others are cut off.
    lm.model.generation_config.eos_token_id = uncalibrated[0].ids[3]
    uncalibrated = greedy(lm, requests, NEW_TOKENS)
    same = []
    for head, alpha in [((1, 0), 1.5), ((2, 2), 1.5), ((1, 1), 4.0)]:
        calibration = SinkCalibration((head,), alpha, 0.4)
        with calibrated_attention(lm, calibration) as cache:
            expected = greedy(lm, requests, NEW_TOKENS, cache)
        kept = keeps_answers(lm, requests, uncalibrated, calibration)
        assert kept == [a == b for a, b in zip(uncalibrated, expected, strict=True)]
        decoder = Decoder(lm, DecodingSettings(batch_size=4))
        assert answer_calibrated(decoder, requests, uncalibrated, NEW_TOKENS, calibration) == expected
        same += kept
    assert {True, False} == set(same)


def test_an_interrupted_search_goes_on_where_it_stopped(
    lm: FrozenLM, prompt: SoftPrompt, found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Silent):
        def progress(self, progress: Progress) -> None:
            assert (progress.stage, progress.total) == ("act", 4)
            if progress.done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(lm, prompt, tmp_path, report=Stop())
    assert not (tmp_path / ACT).exists()
    tried: list[Any] = []

    def count(*arguments: Any) -> Any:
        tried.append(arguments[-1].heads)
        return answer_calibrated(*arguments)

    monkeypatch.setattr("dpc.run.act_search.answer_calibrated", count)
    again = search(lm, prompt, tmp_path)
    assert tried[0] == ((1, 3),)
    assert len(tried) == 2
    assert again == found


def test_a_search_from_other_settings_begins_anew(lm: FrozenLM, prompt: SoftPrompt, tmp_path: Path) -> None:
    search(lm, prompt, tmp_path)
    gentle = SETTINGS.model_copy(update={"act": SETTINGS.act.model_copy(update={"alpha": 1e6})})
    found = search(lm, prompt, tmp_path, gentle)
    assert {t["accuracy"] for t in found["tried"]} == {found["uncalibrated"]}
    assert found["heads"] == []


@pytest.mark.parametrize(
    ("layers", "expected"), [(32, range(2, 31)), (40, range(3, 38)), (12, range(1, 11)), (4, range(1, 3))]
)
def test_the_middle_layers_are_act_s_29_of_32(layers: int, expected: range) -> None:
    assert heads_to_try(range(layers), 2, ActSettings()) == [(layer, head) for layer in expected for head in range(2)]


def test_a_limit_on_heads_spreads_them() -> None:
    every = heads_to_try(range(32), 32, ActSettings())
    some = heads_to_try(range(32), 32, ActSettings(max_heads=58))
    assert some == every[::16]
    assert heads_to_try(range(32), 32, ActSettings(max_heads=10**6)) == every


def test_a_model_without_middle_layers_is_refused() -> None:
    with pytest.raises(UserError, match="none of 2 layers"):
        heads_to_try(range(2), 4, ActSettings())


def test_what_was_searched_for_something_else_is_refused(
    lm: FrozenLM, prompt: SoftPrompt, found: dict[str, Any], tmp_path: Path
) -> None:
    assert load_act(tmp_path, lm, prompt, "toy", SETTINGS) is None
    assert search(lm, prompt, tmp_path) == found
    assert load_act(tmp_path, lm, prompt, "toy", SETTINGS) == found
    with pytest.raises(UserError, match="another task;"):
        load_act(tmp_path, lm, prompt, "other", SETTINGS)
    with pytest.raises(UserError, match="another prompt;"):
        load_act(tmp_path, lm, SoftPrompt.of(prompt.vectors + 1, lm.name), "toy", SETTINGS)
    with pytest.raises(UserError, match=r"another act\.alpha, another act\.rows;"):
        load_act(tmp_path, lm, prompt, "toy", Settings())
    with pytest.raises(UserError, match="another model, another task;"):
        load_act(tmp_path, replace(lm, revision="seed-9"), prompt, "other", SETTINGS)
    write_json(tmp_path / ACT, {"heads": []})
    with pytest.raises(UserError, match="is not a search of heads"):
        load_act(tmp_path, lm, prompt, "toy", SETTINGS)
    write_json(tmp_path / ACT, {name: found[name] for name in ("heads", "from")})
    with pytest.raises(UserError, match="is not a whole search of heads"):
        load_act(tmp_path, lm, prompt, "toy", SETTINGS)


def test_whole_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo, folder = load_lm("zoo"), tmp_path / "prompt"
    save_adapter(init_prompt(zoo, 4, "sample-vocab", 0), zoo, folder, {})
    write_zoo_rows(tmp_path, dev=6, test=5)
    asked = ["--prompt", str(folder), "--data", str(tmp_path), "--set", "decoding.max_new_tokens=12"]
    search = ["calibrate", "--method", "act", *asked, "--set", "act.rows=4", "--set", "act.max_heads=2"]
    evaluate = ["eval", *asked, "--methods", "prompt_tuning,act", "--set", "act.rows=4", "--set", "act.max_heads=2"]
    assert run_command([*evaluate, "--output", str(tmp_path / "early")]) == 2
    assert "dpc calibrate --method act" in capsys.readouterr().err
    assert run_command([*search, "--split", "test"]) == 2
    assert run_command(search) == 0
    stored = json.loads((folder / ACT).read_text())
    assert (stored["n"], len(stored["tried"])) == (4, 2)
    # A head of our own choice, for none helps a prompt that was never tuned.
    write_json(folder / ACT, stored | {"heads": [[1, 2]]})
    assert run_command([*evaluate, "--output", str(tmp_path / "run")]) == 0
    assert len((tmp_path / "run" / "records" / "act.jsonl").read_text().splitlines()) == 5
    capsys.readouterr()
    assert run_command([*evaluate, "--split", "dev", "--output", str(tmp_path / "seen")]) == 2
    assert "4 of its rows" in capsys.readouterr().err
    write_json(folder / ACT, stored)
    assert run_command([*evaluate, "--output", str(tmp_path / "run")]) == 2
    assert "eval was begun with act_" in capsys.readouterr().err
