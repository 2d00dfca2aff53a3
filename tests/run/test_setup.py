"""What was chosen for a prompt is loaded in one place, and only for the prompt, settings and rows that it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from dpc.errors import UserError
from dpc.files import write_json
from dpc.methods import build_method, get_method, get_methods
from dpc.methods.corruptions import KEY_TOKEN
from dpc.methods.method import Method
from dpc.methods.triggers import FirstAnswer, StatisticTrigger
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter, save_adapter
from dpc.records.directory import RunDirectory
from dpc.run.act_search import ACT, search_inputs
from dpc.run.data import Data, row_keys
from dpc.run.setup import load_setup, refuse_to_shrink
from dpc.run.stages import calibrate_method, evaluate_methods
from dpc.settings import MethodSettings, Settings, parse_settings
from tests.tiny_models import tiny_lm
from tests.tiny_rows import toy_examples, toy_task

ROWS = toy_examples(15)
DEV, TEST = Data(toy_task(), "dev", "none", tuple(ROWS[:10])), Data(toy_task(), "test", "none", tuple(ROWS[10:]))
SETTINGS = parse_settings(["decoding.max_new_tokens=8"], {})
DPC, PROMPT_TUNING = get_methods(["dpc", "prompt_tuning"])


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama")


def write_prompt(lm: FrozenLM, folder: Path, seed: int = 0) -> Path:
    vectors = torch.randn(4, lm.hidden_size, generator=torch.Generator().manual_seed(seed))
    save_adapter(SoftPrompt.of(vectors, lm.name), lm, folder, {})
    return folder


def calibrate(lm: FrozenLM, folder: Path, method: Method = DPC) -> dict[str, Any]:
    prompt = load_adapter(lm, folder)
    return calibrate_method(lm, prompt, folder, DEV, SETTINGS, RunDirectory(folder), method)


@pytest.fixture(scope="module")
def prompt(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated prompt; tests that change it take a copy."""
    folder = write_prompt(lm, tmp_path_factory.mktemp("prompt"))
    calibrate(lm, folder)
    return folder


def setting(*assignments: str) -> Settings:
    return parse_settings(["decoding.max_new_tokens=8", *assignments], {})


def test_a_calibrated_prompt_brings_threshold_trigger_rate_and_rows(lm: FrozenLM, prompt: Path) -> None:
    setup = load_setup(lm, prompt, [PROMPT_TUNING, DPC], SETTINGS, task="toy")
    stored = json.loads((prompt / "calibration.json").read_text())
    assert setup.soft_prompt == load_adapter(lm, prompt)
    assert (setup.tau, setup.thresholds) == (None, {"flow": stored["tau"]})
    assert setup.tau_of("flow") == stored["tau"]
    [share] = [point["trigger_rate"] for point in stored["curve"] if point["tau"] == stored["tau"]]
    assert setup.trigger_rate == share
    assert setup.chosen_on == {"choose the threshold of flow": frozenset(row_keys(DEV))}
    assert (setup.calibration, setup.notes, setup.settings) == (stored, (), SETTINGS.method)
    records = [json.loads(line) for line in (prompt / "records" / "calibration.jsonl").read_text().splitlines()]
    fired = sum(record["answer"]["decision"]["statistic"] > stored["tau"] for record in records)
    assert share == fired / len(DEV.examples)


def test_what_no_method_needs_is_not_loaded(lm: FrozenLM, prompt: Path, tmp_path: Path) -> None:
    setup = load_setup(lm, prompt, [PROMPT_TUNING], SETTINGS, task="toy")
    assert (setup.thresholds, setup.chosen_on, setup.act_heads, setup.trigger_rate) == ({}, {}, None, None)
    damaged = Path(copytree(prompt, tmp_path / "prompt"))
    (damaged / "calibration.json").write_text("{")
    assert load_setup(lm, damaged, [PROMPT_TUNING], SETTINGS, task="toy").soft_prompt == setup.soft_prompt


def test_the_random_trigger_needs_the_calibration_of_dpc(lm: FrozenLM, prompt: Path) -> None:
    method = get_method("random_trigger")
    setup = load_setup(lm, prompt, [method], SETTINGS, task="toy")
    assert method.trigger is not None
    assert setup.trigger_rate is not None
    assert setup.need_threshold("random_trigger", method.trigger) == 1 - setup.trigger_rate
    with pytest.raises(UserError, match="leave --tau out"):
        build_method(method, load_setup(lm, prompt, [method], SETTINGS, task="toy", tau=0.5))


def test_a_tau_that_is_given_stands_over_the_calibrated_one(lm: FrozenLM, prompt: Path, tmp_path: Path) -> None:
    damaged = Path(copytree(prompt, tmp_path / "prompt"))
    (damaged / "calibration.json").write_text("{")
    for folder in (prompt, damaged):
        setup = load_setup(lm, folder, [DPC], SETTINGS, task="toy", tau=0.3)
        assert (setup.tau_of("flow"), setup.tau_of("another"), setup.thresholds) == (0.3, 0.3, {})
        assert (setup.calibration, setup.trigger_rate, setup.chosen_on) == (None, None, {})


def test_a_calibration_of_another_prompt_is_refused(lm: FrozenLM, prompt: Path, tmp_path: Path) -> None:
    other = write_prompt(lm, tmp_path / "other", seed=1)
    (other / "calibration.json").write_bytes((prompt / "calibration.json").read_bytes())
    with pytest.raises(UserError, match=r"chosen for another prompt or other settings; run `dpc calibrate` again"):
        load_setup(lm, other, [DPC], SETTINGS, task="toy")


@pytest.mark.parametrize("other", ["gamma=20", "mask_value=mean", "shallow_stop=0.9", "row=before"])
def test_a_calibration_with_other_settings_is_refused(other: str, lm: FrozenLM, prompt: Path) -> None:
    with pytest.raises(UserError, match="another prompt or other settings"):
        load_setup(lm, prompt, [DPC], setting(f"method.{other}"), task="toy")


def test_a_trace_may_corrupt_otherwise_and_a_note_tells_it(lm: FrozenLM, prompt: Path) -> None:
    changed = setting("method.gamma=20", "method.mask_key=false", "method.shallow_stop=0.9")
    setup = load_setup(lm, prompt, [DPC], changed, task="toy", any_corruption=True)
    assert setup.thresholds.keys() == {"flow"}
    assert setup.notes == ("tau was chosen with gamma 10.0, mask_key True, shallow_stop 0.3125",)


@pytest.mark.parametrize("other", ["head_reduction=sum_of_abs", "row=before", "loss_end_token=true"])
def test_a_trace_with_another_trigger_needs_another_threshold(other: str, lm: FrozenLM, prompt: Path) -> None:
    with pytest.raises(UserError, match="another prompt or other settings"):
        load_setup(lm, prompt, [DPC], setting(f"method.{other}"), task="toy", any_corruption=True)


def test_settings_that_change_no_decision_may_differ(lm: FrozenLM, prompt: Path) -> None:
    other = setting("method.seed=5", "decoding.batch_size=2", "act.alpha=3", "tuning.steps=9")
    assert load_setup(lm, prompt, [DPC], other, task="toy").thresholds.keys() == {"flow"}


def test_a_calibration_on_another_task_is_used_and_a_note_tells_it(lm: FrozenLM, prompt: Path) -> None:
    assert load_setup(lm, prompt, [DPC], SETTINGS, task="gsm8k").notes == ("tau was chosen on another task, toy",)


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda stored: {key: value for key, value in stored.items() if key != name}


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no curve": (without("curve"), "is not a calibration"),
    "no description": (without("from"), "is not a calibration"),
    "no rows": (without("rows"), "is not a whole calibration"),
    "no count": (without("n"), "is not a whole calibration"),
    "no number": (lambda stored: stored | {"tau": "much"}, "is not a calibration"),
    "not finite": (lambda stored: stored | {"tau": float("inf")}, "is not a whole calibration"),
    "not on the curve": (lambda stored: stored | {"tau": 0.123456}, "is not a whole calibration"),
    "a list": (lambda stored: [stored], "is not a calibration"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_calibration_is_refused(damage: str, lm: FrozenLM, prompt: Path, tmp_path: Path) -> None:
    change, message = DAMAGED[damage]
    folder = Path(copytree(prompt, tmp_path / "prompt"))
    write_json(folder / "calibration.json", change(json.loads((folder / "calibration.json").read_text())))
    with pytest.raises(UserError, match=f"{message}; run `dpc calibrate` again"):
        load_setup(lm, folder, [DPC], SETTINGS, task="toy")


def test_without_a_calibration_only_building_the_method_fails(lm: FrozenLM, tmp_path: Path) -> None:
    setup = load_setup(lm, write_prompt(lm, tmp_path / "prompt"), [DPC, PROMPT_TUNING], SETTINGS, task="toy")
    build_method(PROMPT_TUNING, setup)
    with pytest.raises(UserError, match="method dpc needs a threshold; run `dpc calibrate` for this prompt first"):
        build_method(DPC, setup)


def test_methods_that_need_a_prompt_are_named_where_none_is_given(lm: FrozenLM) -> None:
    pretrained = get_method("pretrained")
    assert load_setup(lm, None, [pretrained], SETTINGS, task="toy").soft_prompt is None
    with pytest.raises(UserError, match="methods prompt_tuning, dpc need a soft prompt; pass --prompt DIR"):
        load_setup(lm, None, [pretrained, PROMPT_TUNING, DPC], SETTINGS, task="toy")


def test_a_prompt_as_a_value_brings_what_is_kept_beside_its_adapter(lm: FrozenLM, prompt: Path) -> None:
    read = load_adapter(lm, prompt)
    assert load_setup(lm, read, [DPC], SETTINGS, task="toy") == load_setup(lm, prompt, [DPC], SETTINGS, task="toy")
    in_memory = SoftPrompt.of(read.vectors, lm.name)
    assert load_setup(lm, in_memory, [DPC], SETTINGS, task="toy").thresholds == {}


def test_a_prompt_as_a_value_must_fit_the_model(lm: FrozenLM) -> None:
    wide = SoftPrompt.of(torch.zeros(4, lm.hidden_size + 1), "other")
    with pytest.raises(UserError, match="33 values, but model 'tiny-llama' expects 32"):
        load_setup(lm, wide, [PROMPT_TUNING], SETTINGS, task="toy")


@pytest.mark.parametrize("shared", [10, 1])
def test_rows_that_the_threshold_was_chosen_on_are_no_test(
    shared: int, lm: FrozenLM, prompt: Path, tmp_path: Path
) -> None:
    # The same question and answer under another id is the same row.
    seen = [replace(example, id=f"again/{i}") for i, example in enumerate(DEV.examples[:shared])]
    rows = replace(TEST, examples=(*TEST.examples, *seen))
    methods, run = [PROMPT_TUNING, DPC], RunDirectory(tmp_path / "run")
    setup = load_setup(lm, prompt, methods, SETTINGS, task="toy")
    with pytest.raises(UserError, match=f"{shared} of its rows, first again/0, were used to choose the threshold of"):
        evaluate_methods(lm, setup, rows, methods, SETTINGS, run)
    assert not run.path.exists()
    assert evaluate_methods(lm, setup, TEST, methods, SETTINGS, run).n == 5
    given = load_setup(lm, prompt, methods, SETTINGS, task="toy", tau=0.5)
    assert evaluate_methods(lm, given, rows, methods, SETTINGS, RunDirectory(tmp_path / "given")).n == 5 + shared


def write_heads(lm: FrozenLM, folder: Path, settings: Settings = SETTINGS) -> None:
    made_from = search_inputs(lm, load_adapter(lm, folder).sha256, DEV, settings)
    rows = sorted(row_keys(DEV))
    write_json(folder / ACT, {"heads": [[1, 2], [1, 0]], "n": 10, "tried": [], "from": made_from, "rows": rows})


def test_act_brings_its_heads_and_the_rows_they_were_searched_on(lm: FrozenLM, prompt: Path, tmp_path: Path) -> None:
    folder, act = Path(copytree(prompt, tmp_path / "prompt")), get_method("act")
    with pytest.raises(UserError, match="run `dpc calibrate --method act` for this prompt first"):
        build_method(act, load_setup(lm, folder, [act], SETTINGS, task="toy"))
    write_heads(lm, folder)
    setup = load_setup(lm, folder, [act, DPC], SETTINGS, task="toy")
    assert setup.act_heads == ((1, 2), (1, 0))
    assert setup.act == SETTINGS.act
    assert setup.chosen_on.keys() == {"choose the threshold of flow", "choose ACT's heads"}
    # A threshold that is given does not make these rows a test of ACT.
    setup = load_setup(lm, folder, [act, DPC], SETTINGS, task="toy", tau=0.5)
    with pytest.raises(UserError, match="10 of its rows, first toy/0, were used to choose ACT's heads"):
        evaluate_methods(lm, setup, DEV, [act], SETTINGS, RunDirectory(tmp_path / "run"))
    with pytest.raises(UserError, match="another task;"):
        load_setup(lm, folder, [act], SETTINGS, task="gsm8k")
    with pytest.raises(UserError, match=r"another act\.alpha;"):
        load_setup(lm, folder, [act], setting("act.alpha=9"), task="toy")
    assert load_setup(lm, folder, [DPC], setting("act.alpha=9"), task="gsm8k").act_heads is None


def own_method(name: str = "own", trigger: str = "length", source: str = "1") -> Method:
    def tokens(first: FirstAnswer) -> float:
        return float(sum(first.generation.ids) % 7)

    return Method(name, "triggers on a sum", StatisticTrigger(trigger, tokens), KEY_TOKEN, source=source)


def test_each_trigger_has_a_calibration_of_its_own(lm: FrozenLM, prompt: Path, tmp_path: Path) -> None:
    folder, own = Path(copytree(prompt, tmp_path / "prompt")), own_method()
    before = (folder / "calibration.json").read_bytes()
    stored = calibrate(lm, folder, own)
    assert (folder / "calibration.json").read_bytes() == before
    assert json.loads((folder / "calibration_length.json").read_text()) == stored
    assert (stored["trigger"], stored["from"]["own_method"]) == ("length", {"name": "own", "source": "1"})
    setup = load_setup(lm, folder, [own, DPC], SETTINGS, task="toy")
    assert setup.thresholds == {"flow": json.loads(before)["tau"], "length": stored["tau"]}
    assert setup.chosen_on.keys() == {"choose the threshold of flow", "choose the threshold of length"}
    # The rate of the random trigger is DPC's, whatever else was calibrated.
    assert setup.calibration == json.loads(before)


def test_a_threshold_of_another_version_of_the_file_is_refused(lm: FrozenLM, prompt: Path, tmp_path: Path) -> None:
    folder = Path(copytree(prompt, tmp_path / "prompt"))
    calibrate(lm, folder, own_method())
    with pytest.raises(UserError, match="was chosen for another version of the method's file"):
        load_setup(lm, folder, [own_method(source="2")], SETTINGS, task="toy")


@pytest.mark.parametrize("name", ["gamma_only", "random_trigger", "all_corruption", "prompt_tuning"])
def test_only_dpc_and_triggers_of_ones_own_have_a_threshold_to_choose(
    name: str, lm: FrozenLM, prompt: Path, tmp_path: Path
) -> None:
    folder = Path(copytree(prompt, tmp_path / "prompt"))
    with pytest.raises(UserError, match=f"--method {name}: "):
        calibrate(lm, folder, get_method(name))
    assert (folder / "calibration.json").read_bytes() == (prompt / "calibration.json").read_bytes()


def test_a_choice_on_fewer_rows_does_not_replace_one_on_more(prompt: Path, tmp_path: Path) -> None:
    path = prompt / "calibration.json"
    for rows in (10, 11):
        refuse_to_shrink(path, rows)
    with pytest.raises(UserError, match="was chosen on 10 rows, not 9; pass --force"):
        refuse_to_shrink(path, 9)
    refuse_to_shrink(tmp_path / "nothing.json", 1)
    assert MethodSettings().deciding().keys() == MethodSettings.model_fields.keys() - {"seed", "beams"}
