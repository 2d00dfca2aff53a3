"""A method in a file of one's own goes through every command, with a threshold of its own."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from dpc.cli import run_command
from dpc.engine import Decoder, Request
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter
from dpc.records.directory import RecordFile
from dpc.tasks import get_task
from tests.cli.commands import SMALL, uncalibrated

pytestmark = pytest.mark.xdist_group("own_method")

SOURCE = '''
"""Answers that the model itself doubts are given again, with half of the key token."""

from dpc.methods.corruptions import Corruption
from dpc.methods.method import Method
from dpc.methods.triggers import StatisticTrigger
from dpc.prompt.soft_prompt import SoftPrompt


def doubt(first):
    return -float(first.log_probs.mean())


def attenuate(prompt, traced):
    vectors = prompt.vectors.clone()
    vectors[traced.key_token] *= 0.5
    return SoftPrompt.of(vectors, prompt.base_model)


METHOD = Method(
    "attenuation",
    "doubtful answers are given again with half of the key token",
    StatisticTrigger("doubt", doubt, asks=frozenset({"likelihood"})),
    Corruption("key token halved", attenuate),
)
'''
PENS = "Tom has 8 pens. In January Tom buys 5 pens. How many pens does Tom have now?"
# Between the doubts of the rows, so that some answers are given again.
TAU = 0.02


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


@torch.no_grad()
def doubt(vectors: torch.Tensor, question: list[int], answer: tuple[int, ...]) -> float:
    """Mean negative log-likelihood of an answer, by the model as it comes."""
    lm = load_lm("zoo")
    embedded = torch.cat([vectors, lm.model.get_input_embeddings()(torch.tensor([*question, *answer]))])
    logits = lm.model(inputs_embeds=embedded[None], use_cache=False).logits[0, len(vectors) + len(question) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))


def test_eval_triggers_and_corrupts_as_the_file_says(run: Path, rows: Path, mine: Path, tmp_path: Path) -> None:
    command = ["eval", "--output", str(tmp_path / "run"), "--prompt", str(run / "prompt"), "--data", str(rows)]
    command += ["--limit", "10", "--tau", str(TAU), "--methods", f"prompt_tuning,{mine}:METHOD"]
    assert run_command(command) == 0
    records = RecordFile(tmp_path / "run" / "records" / "attenuation.jsonl").read()
    lm, task = load_lm("zoo"), get_task("zoo")
    prompt, examples = load_adapter(lm, run / "prompt"), {e.id: e for e in task.load("test", str(rows))}
    fired = 0
    for record in records:
        decision, question = record.answer.decision, lm.encode(task.prompt(examples[record.example_id]))
        assert decision is not None
        expected = doubt(prompt.vectors, question, record.answer.first.ids)
        assert decision.statistic == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert (decision.triggered, decision.threshold, decision.trigger) == (expected > TAU, TAU, "doubt")
        if record.answer.second is None:
            continue
        fired += 1
        profile = decision.evidence.profile
        assert profile is not None
        assert decision.key_token == profile.index(max(profile))
        vectors = prompt.vectors.clone()
        vectors[decision.key_token] /= 2
        [again] = Decoder(lm).all([Request(question, SoftPrompt.of(vectors, lm.name))], task.max_new_tokens)
        assert record.answer.second == again
        assert decision.evidence.corruption == "key token halved"
    assert 0 < fired < len(records) == 10
    results = json.loads((tmp_path / "run" / "results.json").read_text())["methods"]["attenuation"]
    assert results["trigger"]["rate"] == fired / 10
    assert results["versus_prompt_tuning"] is not None
    assert "attenuation" in (tmp_path / "run" / "report.html").read_text()


def test_calibrate_writes_a_threshold_that_eval_finds(
    run: Path, rows: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = uncalibrated(run, tmp_path)
    evaluate = ["eval", "--output", str(tmp_path / "run"), "--prompt", str(prompt), "--data", str(rows)]
    evaluate += ["--limit", "6", "--methods", str(mine)]
    assert run_command(evaluate) == 2
    assert "run `dpc calibrate --method FILE.py:METHOD`" in capsys.readouterr().err
    assert run_command(["calibrate", "--prompt", str(prompt), "--data", str(rows), "--method", str(mine)]) == 0
    assert "doubt: never triggers, chosen on 24 rows of dev" in capsys.readouterr().err
    assert {path.name for path in prompt.glob("calibration*")} == {"calibration_doubt.json"}
    stored = json.loads((prompt / "calibration_doubt.json").read_text())
    records = RecordFile(prompt / "records" / "calibration_doubt.jsonl").read()
    seen = [r.answer.decision.statistic for r in records if r.answer.decision]
    assert (stored["n"], len(seen)) == (24, 24)
    # The accuracy of every threshold follows from both answers; the first and the last are "always" and "never".
    for point in stored["curve"]:
        pairs = zip(records, seen, strict=True)
        taken = [r.score_final if s is not None and s > point["tau"] else r.score_first for r, s in pairs]
        assert point["accuracy"] == sum(score.correct for score in taken) / 24
    assert (stored["curve"][0]["trigger_rate"], stored["curve"][-1]["trigger_rate"]) == (1.0, 0.0)
    assert run_command(evaluate) == 0
    made = RecordFile(tmp_path / "run" / "records" / "attenuation.jsonl").read()
    assert {r.answer.decision.threshold for r in made if r.answer.decision} == {stored["tau"]}
    capsys.readouterr()
    assert run_command([*evaluate[:1], "--split", "dev", *evaluate[1:], "--output", str(tmp_path / "seen")]) == 2
    assert "were used to choose the threshold of doubt" in capsys.readouterr().err


def test_run_calibrates_and_compares_it_and_goes_on(
    run: Path, rows: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(copytree(run, tmp_path / "run"))
    command = ["run", "--output", str(output), "--data", str(rows), "--no-analyze", *SMALL]
    command += ["--methods", f"prompt_tuning,dpc,{mine}"]
    assert run_command([*command, "--dry-run", "--json"]) == 0
    names = [stage["name"] for stage in json.loads(capsys.readouterr().out)["stages"]]
    assert names == ["tune", "calibrate", "calibrate_doubt", "prompt_tuning", "dpc", "attenuation"]
    assert run_command(command) == 0
    stages = json.loads((output / "run.json").read_text())["stages"]
    assert stages.keys() == {"tune", "calibrate", "calibrate_doubt", "eval", "method_attenuation"}
    results = json.loads((output / "results.json").read_text())
    assert set(results["methods"]) == {"pretrained", "prompt_tuning", "dpc", "attenuation"}
    calibrated = json.loads((output / "prompt" / "calibration_doubt.json").read_text())
    assert stages["method_attenuation"]["from"]["threshold"] == calibrated["tau"]
    before = {path: path.read_bytes() for path in (output / "records").iterdir()}
    assert run_command(command) == 0
    assert {path: path.read_bytes() for path in (output / "records").iterdir()} == before
    capsys.readouterr()
    # The dry run finds it, too, without weights.
    mine.write_text(SOURCE.replace("0.5", "0.25"))
    for dry in (["--dry-run"], []):
        assert run_command([*command, *dry]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "its stage calibrate_doubt was begun with own_method.source" in line
    assert {path: path.read_bytes() for path in (output / "records").iterdir()} == before


def test_going_on_with_a_changed_file_is_refused(
    run: Path, rows: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--output", str(tmp_path / "run"), "--prompt", str(run / "prompt"), "--data", str(rows)]
    command += ["--limit", "4", "--methods", str(mine)]
    assert run_command([*command, "--tau", str(TAU)]) == 0
    assert run_command([*command, "--tau", str(TAU)]) == 0
    mine.write_text(SOURCE.replace("0.5", "0.25"))
    capsys.readouterr()
    assert run_command([*command, "--tau", str(TAU)]) == 2
    assert "its stage method_attenuation was begun with source = " in capsys.readouterr().err
    # So is a threshold that was chosen for the file as it was.
    prompt = uncalibrated(run, tmp_path)
    mine.write_text(SOURCE)
    calibrate = ["calibrate", "--prompt", str(prompt), "--data", str(rows), "--method", str(mine), "--limit", "8"]
    assert run_command(calibrate) == 0
    mine.write_text(SOURCE + "\n")
    capsys.readouterr()
    trace = ["trace", PENS, "--prompt", str(prompt), "--method", str(mine)]
    assert run_command(trace) == 2
    assert "chosen for another version of the method's file" in capsys.readouterr().err
    assert run_command(calibrate) == 0
    assert run_command(trace) == 0


def generated(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run_command([*command]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_generate_and_trace_decide_alike(
    run: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asked.jsonl").write_text(json.dumps({"question": PENS}) + "\n")
    options = ["--prompt", str(run / "prompt"), "--method", f"{mine}:METHOD", "--tau", "0"]
    answer = generated(capsys, "generate", str(tmp_path / "asked.jsonl"), *options)
    traced = generated(capsys, "trace", PENS, *options, "--json")
    decision, shown = answer["decision"], traced["decision"]
    assert decision["triggered"] is shown["triggered"] is True
    assert (decision["trigger"], shown["trigger"], traced["method"]) == ("doubt", "doubt", "attenuation")
    assert shown["statistic"] == pytest.approx(decision["statistic"])
    assert shown["masked_token"] == decision["key_token"]
    assert (traced["first"]["text"], traced["second"]["text"]) == (answer["first"]["text"], answer["second"]["text"])
    assert traced["answer"] == answer["answer"]
    # The trace shows the prompt's influence, too, though the method does not ask for it.
    assert len(shown["influence"]) == len(answer["first"]["ids"])
    page = tmp_path / "page.html"
    assert run_command(["trace", PENS, *options, "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert f"doubt = {decision['statistic']:.4g} > 0: triggered" in printed
    assert "key token halved" in printed
    assert "doubt" in page.read_text()
    assert run_command(["trace", PENS, *options, "--token", "1"]) == 2
    assert "its corruption (key token halved) takes neither a token nor gamma" in capsys.readouterr().err


CALL = "METHOD = Method("
WRONG = {
    "it does not run": (SOURCE.replace(CALL, "1 / 0\nMETHOD = Method("), "does not run (ZeroDivisionError"),
    "no method": (SOURCE.replace(CALL, "OTHER = Method("), "has no METHOD"),
    "something else": (SOURCE + "METHOD = 3\n", "METHOD is no Method"),
    "a name that ships": (SOURCE.replace('"attenuation"', '"dpc"'), "called dpc, as one that ships with dpc"),
    "a name that is none": (SOURCE.replace('"attenuation"', '"My method"'), "expected a name of a-z, 0-9 and _"),
    "a name of calibrations": (SOURCE.replace('"attenuation"', '"calibration_2"'), "not calibration"),
    "the name of dpc's trigger": (SOURCE.replace('"doubt"', '"flow"'), "has the name of one that ships with dpc"),
    "no corruption": (SOURCE.replace("    Corruption(", "    None and Corruption("), "expected trigger and corruption"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_file_that_is_no_method_is_refused_in_one_line(
    mistake: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, message = WRONG[mistake]
    mine.write_text(source)
    assert run_command(["eval", "--output", str(tmp_path / "run"), "--methods", str(mine)]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_two_methods_of_one_name_are_refused(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "copy.py").write_text(SOURCE)
    methods = f"{mine},{tmp_path / 'copy.py'}"
    assert run_command(["eval", "--output", str(tmp_path / "run"), "--methods", methods]) == 2
    assert "each once" in capsys.readouterr().err
