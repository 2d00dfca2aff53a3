"""The command ``dpc``: thin, and light to import; every command loads what it needs when it runs."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpc.errors import UserError

if TYPE_CHECKING:
    from dpc.lm import FrozenLM
    from dpc.pipeline import Data
    from dpc.settings import Settings

app = typer.Typer(
    name="dpc",
    help="Dynamic Prompt Corruption: tune a soft prompt, see where it misleads the reasoning, and answer again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
zoo = typer.Typer(help="The embedded default: train its model, write its benchmark.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")

Model = Annotated[str, typer.Option(help="Hub id or local folder of a causal language model; `zoo` ships with dpc.")]
TaskName = Annotated[str, typer.Option("--task", help="Benchmark: zoo or gsm8k.")]
Source = Annotated[
    str | None, typer.Option("--data", help="Hub id, folder or file of rows; none: the task's own source.")
]
Prompt = Annotated[Path | None, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting, group.name=value; may be repeated.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first rows.")]
Tau = Annotated[
    float | None,
    typer.Option(help="Threshold of the trigger; none: the calibrated one.", callback=lambda value: _finite(value)),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Output = Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it stopped.")]
METHOD_NAMES = "pretrained,prompt_tuning,dpc"


def _finite(tau: float | None) -> float | None:
    if tau is not None and not math.isfinite(tau):
        raise UserError(f"--tau {tau}: expected a number; R lies between 0 and 1")
    return tau


def _names(methods: str) -> list[str]:
    return [name.strip() for name in methods.split(",")]


def _settings(model: str, assignments: list[str] | None) -> Settings:
    """Settings over the defaults of the model: the embedded one brings its own for tuning."""
    from dpc.settings import parse_settings
    from dpc.zoo import SETTINGS

    return parse_settings(assignments or [], SETTINGS if model == "zoo" else {})


def _data(task: str, split: str, source: str | None, limit: int | None = None) -> Data:
    from dpc.pipeline import Data
    from dpc.tasks import get_task

    return Data.load(get_task(task), split, source, limit)


def _lm(model: str, dtype: str, device: str) -> FrozenLM:
    from transformers.utils import logging

    from dpc.lm import load_lm

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return load_lm(model, dtype=dtype, device=device)


@app.command()
def run(
    output: Output,
    model: Model = "zoo",
    task: TaskName = "zoo",
    data: Source = None,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = METHOD_NAMES,
    limit: Limit = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Do everything: tune a prompt, choose the threshold, evaluate every method, write table and page."""
    from dpc.cli.stages import run_everything
    from dpc.pipeline import refuse_shared_rows, row_keys

    chosen = _settings(model, settings)
    splits = {split: _data(task, split, data, limit if split == "test" else None) for split in ("train", "dev", "test")}
    for split in ("train", "dev"):
        refuse_shared_rows(splits["test"], row_keys(splits[split]).keys(), f"tune or choose ({split} split)")
    run_everything(_lm(model, dtype, device), splits, _names(methods), chosen, output)


@app.command()
def tune(
    output: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    model: Model = "zoo",
    task: TaskName = "zoo",
    data: Source = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a tuning that was interrupted.")] = False,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Tune a soft prompt on the train split; the best on the dev split is kept as a PEFT adapter."""
    from dpc.cli.stages import tune_with_progress

    chosen = _settings(model, settings)
    train, dev = _data(task, "train", data), _data(task, "dev", data)
    tune_with_progress(_lm(model, dtype, device), train, dev, chosen, output, resume)


@app.command()
def calibrate(
    prompt: Annotated[Path, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")],
    model: Model = "zoo",
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="Split to choose the threshold on.")] = "dev",
    limit: Limit = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Choose the trigger's threshold on the dev split, and store it beside the adapter."""
    from dpc.cli.stages import calibrate_with_progress

    if split == "test":
        raise UserError("--split test: a threshold chosen on test rows spoils the test; expected dev or train")
    chosen, rows = _settings(model, settings), _data(task, split, data, limit)
    calibrate_with_progress(_lm(model, dtype, device), prompt, rows, chosen, prompt)


@app.command("eval")
def evaluate(
    output: Output,
    prompt: Prompt = None,
    model: Model = "zoo",
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = METHOD_NAMES,
    limit: Limit = None,
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Answer and grade a split with every method; print the table, write records, results and page."""
    from dpc.cli.stages import evaluate_with_progress
    from dpc.methods import check_methods

    names = _names(methods)
    check_methods(names)
    chosen, rows = _settings(model, settings), _data(task, split, data, limit)
    evaluate_with_progress(_lm(model, dtype, device), prompt, rows, names, chosen, output, tau)


@app.command()
def generate(
    source: Annotated[
        str, typer.Argument(help="File of JSON lines with a field `question`; `-` reads standard input.")
    ],
    prompt: Prompt = None,
    model: Model = "zoo",
    task: TaskName = "zoo",
    method: Annotated[str, typer.Option(help="One method.")] = "dpc",
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Answer your own questions: JSON lines in, JSON lines out, with the decision and both passes."""
    from dpc.cli.questions import generate_lines, read_questions
    from dpc.tasks import get_task

    chosen, known = _settings(model, settings), get_task(task)
    questions = read_questions(source)
    for line in generate_lines(_lm(model, dtype, device), known, questions, method, prompt, tau, chosen):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@app.command()
def trace(
    question: Annotated[str, typer.Argument(help="One question.")],
    prompt: Annotated[Path, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")],
    npz: Annotated[Path | None, typer.Option(help="Write the numbers to this file.")] = None,
    model: Model = "zoo",
    task: TaskName = "zoo",
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Show what happens to one question: both answers, the decision, and where the prompt's influence goes."""
    from dpc.cli.questions import show_trace
    from dpc.tasks import get_task

    chosen, known = _settings(model, settings), get_task(task)
    show_trace(_lm(model, dtype, device), known, question, prompt, tau, chosen, npz)


@app.command()
def bench(
    points: Annotated[
        list[str] | None, typer.Argument(help="What to measure; none: everything, which takes an hour.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each thing, in turn; the median counts.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer instances and shorter ones: a try, not a result.")
    ] = False,
    prompt: Annotated[
        Path | None, typer.Option(help="Folder of a soft prompt for `zoo`; none: one is tuned and kept in the cache.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a figure, with raw numbers.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Keep the figures in benchmarks/results.jsonl.")] = False,
) -> None:
    """Measure dpc against what a careful user of PEFT and transformers would write (benchmarks/naive.py)."""
    from dpc.bench.points import check_points

    check_points(points or [])
    from dpc.cli.bench import run_bench

    run_bench(points or [], repeats, quick, prompt, as_json, write)


@zoo.command("train")
def zoo_train(
    output: Annotated[Path, typer.Option(help="Folder for model, tokenizer and loss curve.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was interrupted.")] = False,
    total_tokens: Annotated[
        int | None, typer.Option(min=1, help="Train on fewer or more tokens than the recipe.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than the recipe's.")] = None,
) -> None:
    """Train the embedded model from scratch, as the shipped one was."""
    from dpc.cli.zoo import train_with_progress

    train_with_progress(output, resume, {"total_tokens": total_tokens, "seed": seed})


@zoo.command("data")
def zoo_data(output: Annotated[Path, typer.Option(help="Folder for train.jsonl, dev.jsonl and test.jsonl.")]) -> None:
    """Write the embedded benchmark from its seed."""
    from dpc.cli.zoo import write_benchmark

    write_benchmark(output)


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Dynamic Prompt Corruption: tune a soft prompt, see where it misleads the reasoning, and answer again."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"dpc {installed('dpc')}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 2 and one line for what the user can mend, 130 for Ctrl-C."""
    sys.exit(run_command(arguments))


def run_command(arguments: list[str] | None) -> int:
    """Run one command and return its exit code; everything goes to the terminal as it would for a user."""
    try:
        code: Any = typer.main.get_command(app).main(args=arguments, prog_name="dpc", standalone_mode=False)
    except UserError as error:
        return _complain(" ".join(str(error).split()))
    except typer.TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
        return _complain(f"{' '.join(message.split())} (see dpc --help)")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error):
            raise
        return _complain(
            "out of memory; what was computed is kept; begin in another --output with a smaller "
            "--set decoding.batch_size=N, decoding.saliency_batch_size=N or tuning.batch_size=N"
        )
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    if code == 130:
        print("\ninterrupted; what was computed is kept: give the same command again to go on", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
