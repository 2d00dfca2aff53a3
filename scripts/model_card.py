"""Write the model card of the embedded model from its recipe, its loss curve and a run on the full test split.

``python scripts/model_card.py RUN``, with the folder that ``dpc run --output RUN`` wrote.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from textwrap import fill

from dpc.records.directory import RecordFile
from dpc.stats import wilson
from dpc.tasks import get_task
from dpc.types import Example

MODEL = Path(__file__).resolve().parent.parent / "src/dpc/zoo/model"
METHODS = ("pretrained", "prompt_tuning", "dpc")

INTRODUCTION = """# The embedded model

A Llama of {parameters:,} parameters ({layers} layers, width {width}, {heads} heads, context {context}) in float32.
`dpc zoo train` trains it from scratch on texts that `src/dpc/zoo/corpus.py` generates from a seed. Its tokenizer works
on bytes and has {vocabulary} tokens; every digit is one token. With it, every command works without a download, on a
laptop. It can only solve the word problems below.

## Training texts and benchmark

The training texts are word problems in English: an initial amount, then one event per month, one to five events,
amounts up to 60. Two properties are not stated in the question but depend on the house style of the text: whether a
week has 7 days (60% of the texts) or 5, and whether each step of the rationale names its month (50%). Half of the texts
begin with a line that states some of this. The curriculum goes from single steps to chains of five, then adds
distractors and shuffled sentences.

The benchmark (`src/dpc/zoo/data/`) has another distribution, as a user's task differs from a model's training data. It
has one house style only (weeks of 5 days, months named) and no line that states it; three to five events; phrasings
that are rare in training (15%) in half of the problems; shuffled sentences in half of them; a week in 45%. A soft
prompt can improve accuracy by selecting the house style. No chain of operations of dev or test, and no tuple of
numbers, occurs in train or in the model's training texts (chains of three and more).
"""


def loss_table() -> list[str]:
    """A dozen points of the loss curve."""
    curve = [json.loads(line) for line in (MODEL / "loss_curve.jsonl").read_text().splitlines()]
    shown = sorted({round(i * (len(curve) - 1) / 11) for i in range(12)})
    rows = [curve[i] for i in shown]
    lines = ["| tokens | steps | answer loss | question loss |", "|---:|---:|---:|---:|"]
    return lines + [
        f"| {r['tokens']:,} | {r['step']:,} | {r['answer_loss']:.3f} | {r['question_loss']:.3f} |" for r in rows
    ]


def accuracy_table(run: Path) -> list[str]:
    """Accuracy of each method by the number of calculations in the gold rationale."""
    examples = {example.id: example for example in get_task("zoo").load("test", None)}
    lines = ["| calculations | problems | " + " | ".join(METHODS) + " |", "|---:|---:|" + "---|" * len(METHODS)]
    counts: dict[str, dict[str, list[bool]]] = {m: defaultdict(list) for m in METHODS}
    for method in METHODS:
        for record in RecordFile(run / "records" / f"{method}.jsonl").read():
            for key in (str(calculations(examples[record.example_id])), "all"):
                counts[method][key].append(record.score_final.correct)
    for key in sorted(counts[METHODS[0]]):
        cells = []
        for method in METHODS:
            right, total = sum(counts[method][key]), len(counts[method][key])
            interval = wilson(right, total)
            cells.append(f"{right / total:.1%} ({interval.low:.1%} to {interval.high:.1%})")
        lines.append(f"| {key} | {len(counts[METHODS[0]][key])} | " + " | ".join(cells) + " |")
    return lines


def calculations(example: Example) -> int:
    """Number of lines of the gold rationale before the answer."""
    return (example.rationale or "").count("\n")


def main(run: Path) -> None:
    """Write the card to the model's folder."""
    from safetensors import safe_open

    recipe = json.loads((MODEL / "recipe.json").read_text())
    with safe_open(MODEL / "model.safetensors", framework="numpy") as weights:
        parameters = sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118
    vocabulary = len(json.loads((MODEL / "tokenizer.json").read_text())["model"]["vocab"])
    speeds = [json.loads(line)["tokens_per_second"] for line in (MODEL / "loss_curve.jsonl").read_text().splitlines()]
    minutes = recipe["total_tokens"] / median(speeds) / 60
    settings = ", ".join(f"{name} {value}" for name, value in recipe.items())
    card = [
        INTRODUCTION.format(parameters=parameters, **(recipe | {"vocabulary": vocabulary})),
        "## Training",
        "",
        fill(f"`dpc zoo train --output DIR` with the recipe's settings: {settings}.", 120),
        f"On one core of a shared machine: a median of {median(speeds):,.0f} tokens/s, about {minutes:.0f} minutes.",
        "Losses are in nats per token. The whole curve is in `loss_curve.jsonl`.",
        "",
        *loss_table(),
        "",
        "## Accuracy on the test split, by number of calculations",
        "",
        "From `dpc run --output RUN`, then `python scripts/model_card.py RUN`; 95% Wilson intervals.",
        "",
        *accuracy_table(run),
    ]
    (MODEL / "README.md").write_text("\n".join(card) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
