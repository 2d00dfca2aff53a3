"""Prompt tuning: batching does not change the result, and a resumed run equals an uninterrupted one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file

from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt, load_adapter
from dpc.prompt.target_loss import encode_rows, target_loss
from dpc.prompt.tuning import TuningProgress, learning_rate, tune
from dpc.prompt.tuning_state import Best, load_checkpoint
from dpc.settings import TuningSettings
from tests.tiny_models import CONTEXT, tiny_lm

LENGTH = 3
TRAIN = [(f"{'ab' * (n % 4)}{n} =", f" {'x' * (n % 3)}{n}") for n in range(11)]
DEV = [("a =", " 1"), ("longer =", " 23"), ("b", " 4")]
SMALL = TuningSettings(
    length=LENGTH,
    init="random",
    learning_rate=0.05,
    epochs=3,
    batch_size=2,
    gradient_accumulation=2,
    evaluate_every=2,
    checkpoint_seconds=6,
)
STEPS = 9


def changed(settings: TuningSettings, **changes: Any) -> TuningSettings:
    return TuningSettings.model_validate(settings.model_dump() | changes)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=2)


@pytest.fixture(scope="module")
def uninterrupted(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> tuple[SoftPrompt, Path]:
    output = tmp_path_factory.mktemp("whole") / "prompt"
    return tune(lm, TRAIN, DEV, SMALL, output, dev_accuracy=peculiar_accuracy), output


def peculiar_accuracy(prompt: SoftPrompt) -> float:
    """A figure in {0, 0.5, 1} that depends on the prompt alone, so that the best is none of the first or the last."""
    return int(prompt.sha256, 16) % 3 / 2


class Killed(BaseException):
    """Nothing is written any more, as for SIGKILL."""


@pytest.fixture
def slow_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which an update takes three seconds: with SMALL, there is a checkpoint after each second update."""
    ticks = count()
    monkeypatch.setattr("dpc.prompt.tuning.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def stop_at(step: int, error: type[BaseException] = Killed) -> Callable[[TuningProgress], None]:
    def progress(report: TuningProgress) -> None:
        if report.step == step:
            raise error

    return progress


def test_the_learning_rate_warms_up_and_falls_to_zero_along_a_cosine() -> None:
    settings = changed(SMALL, learning_rate=1.0, warmup_share=0.2)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[99] < 1e-3
    assert max(learning_rate(step, 100, changed(settings, warmup_share=0.0)) for step in range(100)) == 1.0


def test_every_epoch_tunes_on_batches_of_its_own(lm: FrozenLM, tmp_path: Path) -> None:
    reports: list[TuningProgress] = []
    tune(lm, TRAIN, [], changed(SMALL, learning_rate=1e-30), tmp_path, progress=reports.append)
    losses = [report.loss for report in reports if report.loss is not None]
    assert len({tuple(losses[at : at + 3]) for at in (0, 3, 6)}) == 3


def test_tuning_lowers_the_loss_and_leaves_the_model_alone(lm: FrozenLM, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    reports: list[TuningProgress] = []
    tune(lm, TRAIN, DEV, changed(SMALL, epochs=12), tmp_path, progress=reports.append)
    losses = [report.loss for report in reports if report.loss is not None]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_the_plain_way_tunes_to_the_same_prompt(lm: FrozenLM, tmp_path: Path) -> None:
    fast, plain = (
        tune(lm, TRAIN, DEV, changed(SMALL, shared_prompt=shared), tmp_path / str(shared)).vectors
        for shared in (True, False)
    )
    start = init_prompt(lm, LENGTH, "random", seed=0).vectors
    assert not torch.equal(fast, plain)
    assert (fast - plain).norm() < 1e-4 * (fast - start).norm()


def test_rows_may_be_taken_at_random(lm: FrozenLM, tmp_path: Path) -> None:
    losses = []
    for by_length in (True, False):
        reports: list[TuningProgress] = []
        settings = changed(SMALL, by_length=by_length, learning_rate=1e-30)
        tune(lm, TRAIN, [], settings, tmp_path / str(by_length), progress=reports.append)
        losses.append([report.loss for report in reports])
    assert losses[0] != losses[1]


def test_accumulated_batches_tune_as_one_large_batch(lm: FrozenLM, tmp_path: Path) -> None:
    large = changed(SMALL, batch_size=6, gradient_accumulation=1)
    parts = changed(SMALL, batch_size=2, gradient_accumulation=3)
    whole, split = (tune(lm, TRAIN, DEV, at, tmp_path / str(at.batch_size)).vectors for at in (large, parts))
    start = init_prompt(lm, LENGTH, "random", seed=0).vectors
    assert (whole - split).norm() < 1e-4 * (whole - start).norm()


# Before the first checkpoint; at one; after one, within an epoch; at the end of an epoch; after the last update.
@pytest.mark.usefixtures("slow_updates")
@pytest.mark.parametrize("killed_at", [1, 4, 5, 6, STEPS])
def test_a_killed_and_resumed_run_ends_bitwise_where_an_uninterrupted_one_does(
    lm: FrozenLM, uninterrupted: tuple[SoftPrompt, Path], tmp_path: Path, killed_at: int
) -> None:
    expected, whole = uninterrupted
    with pytest.raises(Killed):
        tune(lm, TRAIN, DEV, SMALL, tmp_path, dev_accuracy=peculiar_accuracy, progress=stop_at(killed_at))
    checkpoint = tmp_path / "checkpoint.safetensors"
    kept = load_checkpoint(checkpoint, torch.device("cpu"))[0].step if checkpoint.exists() else 0
    assert kept == {1: 0, 5: 4}.get(killed_at, killed_at)
    torch.rand(7)
    prompt = tune(lm, TRAIN, DEV, SMALL, tmp_path, dev_accuracy=peculiar_accuracy, resume=True)
    assert torch.equal(prompt.vectors.view(torch.int32), expected.vectors.view(torch.int32))
    for name in ("history.jsonl", "dpc.json", "adapter_model.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.usefixtures("slow_updates")
def test_a_run_killed_many_times_ends_in_the_same_prompt(
    lm: FrozenLM, uninterrupted: tuple[SoftPrompt, Path], tmp_path: Path
) -> None:
    for step in (3, 5, 6, 8):
        with pytest.raises(Killed):
            tune(lm, TRAIN, DEV, SMALL, tmp_path, dev_accuracy=peculiar_accuracy, progress=stop_at(step), resume=True)
    assert tune(lm, TRAIN, DEV, SMALL, tmp_path, dev_accuracy=peculiar_accuracy, resume=True) == uninterrupted[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_an_interrupt_writes_a_checkpoint_of_the_last_update(
    lm: FrozenLM, tmp_path: Path, error: type[BaseException]
) -> None:
    settings = changed(SMALL, checkpoint_seconds=1000)
    with pytest.raises(error):
        tune(lm, TRAIN, DEV, settings, tmp_path, progress=stop_at(5, error))
    state, _ = load_checkpoint(tmp_path / "checkpoint.safetensors", torch.device("cpu"))
    assert state.step == 5
    other = changed(settings, checkpoint_seconds=5)  # It changes no prompt.
    assert tune(lm, TRAIN, DEV, other, tmp_path, resume=True) == tune(lm, TRAIN, DEV, settings, tmp_path / "whole")


def test_an_interrupt_in_the_middle_of_an_update_keeps_the_one_before(lm: FrozenLM, tmp_path: Path) -> None:
    def accuracy(prompt: SoftPrompt) -> float:
        if (tmp_path / "history.jsonl").read_text().count("\n") == 3:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        tune(lm, TRAIN, DEV, changed(SMALL, checkpoint_seconds=1000), tmp_path, dev_accuracy=accuracy)
    assert load_checkpoint(tmp_path / "checkpoint.safetensors", torch.device("cpu"))[0].step == 3


def test_the_result_depends_on_the_seed_and_not_on_the_global_generator(
    lm: FrozenLM, uninterrupted: tuple[SoftPrompt, Path], tmp_path: Path
) -> None:
    torch.rand(3)
    before = torch.get_rng_state()
    again = tune(lm, TRAIN, DEV, SMALL, tmp_path / "a", dev_accuracy=peculiar_accuracy)
    assert torch.equal(torch.get_rng_state(), before)
    assert again == uninterrupted[0]
    assert tune(lm, TRAIN, DEV, changed(SMALL, seed=1), tmp_path / "b", dev_accuracy=peculiar_accuracy) != again


def test_the_prompt_of_highest_dev_accuracy_is_kept(lm: FrozenLM, tmp_path: Path) -> None:
    seen: list[SoftPrompt] = []

    def accuracy(prompt: SoftPrompt) -> float:
        seen.append(prompt)
        return [0.1, 0.7, 0.3, 0.2, 0.1][len(seen) - 1]

    kept = tune(lm, TRAIN, DEV, SMALL, tmp_path, dev_accuracy=accuracy)
    assert len(seen) == 5
    assert kept == seen[1]
    assert load_adapter(lm, tmp_path) == kept
    notes = json.loads((tmp_path / "dpc.json").read_text())["tuning"]
    assert (notes["best_step"], notes["dev_accuracy"], notes["steps"]) == (4, 0.7, STEPS)


def test_ties_in_accuracy_go_to_the_lower_dev_loss_then_to_the_earlier() -> None:
    vectors = torch.zeros(1, 1)
    assert Best(2, vectors, 1.0, 0.5).beats(Best(1, vectors, 1.1, 0.5))
    assert not Best(2, vectors, 1.0, 0.5).beats(Best(1, vectors, 1.0, 0.5))
    assert not Best(2, vectors, 0.1, 0.4).beats(Best(1, vectors, 1.0, 0.5))
    assert Best(2, vectors, 1.0, None).beats(Best(1, vectors, 1.1, None))


def test_without_dev_rows_the_last_prompt_is_kept(lm: FrozenLM, tmp_path: Path) -> None:
    settings = changed(SMALL, steps=3)
    kept = tune(lm, TRAIN, [], settings, tmp_path)
    assert json.loads((tmp_path / "dpc.json").read_text())["tuning"]["best_step"] == 3
    assert kept != init_prompt(lm, LENGTH, "random", seed=0)


def test_every_update_is_reported_and_kept_in_the_history(lm: FrozenLM, tmp_path: Path) -> None:
    reports: list[TuningProgress] = []
    tune(lm, TRAIN, DEV, SMALL, tmp_path, dev_accuracy=peculiar_accuracy, progress=reports.append)
    assert [report.step for report in reports] == list(range(STEPS + 1))
    assert (reports[0].loss, reports[0].dev_loss) == (None, None)
    assert [report.step for report in reports if report.dev_loss is not None] == [2, 4, 6, 8, 9]
    assert [report.step for report in reports if report.dev_accuracy is not None] == [2, 4, 6, 8, 9]
    assert all(report.steps == STEPS and report.tokens_per_second > 0 for report in reports[1:])
    assert reports[-1].seconds_left == 0 < reports[1].seconds_left
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"], line["dev_loss"]) for line in lines] == [
        (report.step, report.loss, report.dev_loss) for report in reports[1:]
    ]


def test_dev_loss_is_the_mean_over_target_tokens(lm: FrozenLM, tmp_path: Path) -> None:
    reports: list[TuningProgress] = []
    prompt = tune(lm, TRAIN, DEV, changed(SMALL, steps=2), tmp_path, progress=reports.append)
    rows = encode_rows(lm, DEV, LENGTH, None, "dev")
    expected = sum(target_loss(lm, prompt.vectors, [row]).item() for row in rows) / sum(len(row[1]) for row in rows)
    assert reports[-1].dev_loss == pytest.approx(expected, rel=1e-5)


def test_the_first_update_takes_the_text_that_it_was_given(lm: FrozenLM, tmp_path: Path) -> None:
    settings = changed(SMALL, init="text", steps=1, learning_rate=1e-9)
    given = tune(lm, TRAIN, [], settings, tmp_path / "a", init_text="chosen").vectors
    first = tune(lm, TRAIN, [], settings, tmp_path / "b").vectors
    torch.testing.assert_close(given, init_prompt(lm, LENGTH, "text", 0, "chosen").vectors, rtol=0, atol=1e-7)
    torch.testing.assert_close(first, init_prompt(lm, LENGTH, "text", 0, "".join(TRAIN[0])).vectors, rtol=0, atol=1e-7)


def test_gradients_are_cut_to_the_norm(lm: FrozenLM, tmp_path: Path) -> None:
    tiny = tune(lm, TRAIN, [], changed(SMALL, steps=1, max_grad_norm=1e-9), tmp_path / "a").vectors
    free = tune(lm, TRAIN, [], changed(SMALL, steps=1, max_grad_norm=None), tmp_path / "b").vectors
    start = init_prompt(lm, LENGTH, "random", seed=0).vectors
    # AdamW undoes any scale but one that its epsilon drowns.
    assert (tiny - start).norm() < 0.1 * (free - start).norm()


def test_the_scale_of_gradients_changes_no_digit(lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled = tune(lm, TRAIN, [], SMALL, tmp_path / "a").vectors
    assert lm.gradient_scale > 1
    monkeypatch.setattr(FrozenLM, "gradient_scale", 1.0)
    assert torch.equal(scaled, tune(lm, TRAIN, [], SMALL, tmp_path / "b").vectors)


def test_a_bfloat16_model_is_tuned_with_a_float32_prompt(tmp_path: Path) -> None:
    lm = tiny_lm("llama", torch.bfloat16, layers=2)
    reports: list[TuningProgress] = []
    prompt = tune(lm, TRAIN, DEV, changed(SMALL, epochs=10), tmp_path, progress=reports.append)
    assert prompt.vectors.dtype == torch.float32
    assert not torch.equal(prompt.vectors, prompt.vectors.bfloat16().float())
    losses = [report.loss for report in reports if report.loss is not None]
    assert losses[-1] < losses[0]


def test_autocast_computes_in_bfloat16_and_is_off_by_default_on_a_cpu(lm: FrozenLM, tmp_path: Path) -> None:
    losses = {}
    for autocast in ("auto", "off", "bfloat16"):
        reports: list[TuningProgress] = []
        settings = changed(SMALL, steps=1, autocast=autocast)
        tune(lm, TRAIN, [], settings, tmp_path / autocast, progress=reports.append)
        losses[autocast] = reports[1].loss
    assert losses["auto"] == losses["off"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["off"], rel=0.03)


def test_peft_loads_what_tuning_leaves(lm: FrozenLM, uninterrupted: tuple[SoftPrompt, Path]) -> None:
    prompt, output = uninterrupted
    assert uninterrupted[0].directory == output
    loaded = peft.PeftModel.from_pretrained(tiny_lm("llama", layers=2).model, output)
    assert torch.equal(loaded.get_prompt(batch_size=1)[0], prompt.vectors)


def test_a_finished_directory_is_refused_and_resuming_it_gives_its_prompt(
    lm: FrozenLM, uninterrupted: tuple[SoftPrompt, Path]
) -> None:
    prompt, output = uninterrupted
    with pytest.raises(UserError, match="holds a tuned prompt: load it, or choose another directory"):
        tune(lm, TRAIN, DEV, SMALL, output, dev_accuracy=peculiar_accuracy)
    assert tune(lm, TRAIN, DEV, SMALL, output, dev_accuracy=peculiar_accuracy, resume=True) == prompt
    with pytest.raises(UserError, match=r"learning_rate 0\.05, now 0\.5"):
        tune(lm, TRAIN, DEV, changed(SMALL, learning_rate=0.5), output, dev_accuracy=peculiar_accuracy, resume=True)


def test_a_directory_with_a_checkpoint_is_continued_with_the_same_input_or_not_at_all(
    lm: FrozenLM, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(lm, TRAIN, DEV, SMALL, tmp_path, progress=stop_at(4, KeyboardInterrupt))
    with pytest.raises(UserError, match="unfinished tuning: continue it with --resume, or choose another directory"):
        tune(lm, TRAIN, DEV, SMALL, tmp_path)
    refused: list[tuple[str, Callable[[], object]]] = [
        (r"\(seed 0, now 1\)", lambda: tune(lm, TRAIN, DEV, changed(SMALL, seed=1), tmp_path, resume=True)),
        (r"\(other training_rows\)", lambda: tune(lm, TRAIN[1:], DEV, SMALL, tmp_path, resume=True)),
        (r"\(other dev_rows\)", lambda: tune(lm, TRAIN, [], SMALL, tmp_path, resume=True)),
        (r"\(other weights\)", lambda: tune(replace(lm, revision="?"), TRAIN, DEV, SMALL, tmp_path, resume=True)),
        (
            r"\(other has_dev_accuracy\)",
            lambda: tune(lm, TRAIN, DEV, SMALL, tmp_path, dev_accuracy=peculiar_accuracy, resume=True),
        ),
    ]
    for message, attempt in refused:
        with pytest.raises(UserError, match=message):
            attempt()


def test_a_spoilt_checkpoint_is_refused(lm: FrozenLM, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    for spoil in (lambda: checkpoint.write_bytes(b"x"), lambda: save_file({"vectors": torch.zeros(1)}, checkpoint)):
        spoil()
        with pytest.raises(UserError, match="is not a readable checkpoint: delete it and start again"):
            tune(lm, TRAIN, DEV, SMALL, tmp_path, resume=True)


def test_a_history_that_lost_lines_is_refused(lm: FrozenLM, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(lm, TRAIN, DEV, SMALL, tmp_path, progress=stop_at(4, KeyboardInterrupt))
    (tmp_path / "history.jsonl").write_text("")
    with pytest.raises(UserError, match=r"history\.jsonl' is shorter than its checkpoint says"):
        tune(lm, TRAIN, DEV, SMALL, tmp_path, resume=True)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stands(
    lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_disk(report: TuningProgress) -> None:
        if report.step == 5:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(UserError, match=r"cannot write '.*checkpoint\.safetensors' \(No space left on device\)"):
        tune(lm, TRAIN, DEV, SMALL, tmp_path, progress=fill_disk)
    monkeypatch.undo()
    assert tune(lm, TRAIN, DEV, SMALL, tmp_path, resume=True) == tune(lm, TRAIN, DEV, SMALL, tmp_path / "whole")


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        ([], DEV, "no training rows"),
        ([("q", " a"), ("q", " ")], DEV, "training row 2: its target is empty"),
        (TRAIN, [("q", "")], "dev row 1: its target is empty"),
        (
            TRAIN,
            [("q" * CONTEXT, " a")],
            rf"dev row 1: {CONTEXT + 6} tokens, the prompt's 3 included, where {CONTEXT} fit",
        ),
    ],
)
def test_rows_that_cannot_be_learned_are_named(
    lm: FrozenLM, tmp_path: Path, train: list[tuple[str, str]], dev: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune(lm, train, dev, SMALL, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_loss_that_is_no_number_ends_tuning_with_a_sentence(lm: FrozenLM, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no longer finite; start in another directory with a lower learning rate"):
        tune(lm, TRAIN, DEV, changed(SMALL, learning_rate=1e38, weight_decay=1e3), tmp_path)
