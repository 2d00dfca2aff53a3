"""Write the card of the embedded model from its recipe, its loss curve and a run on the full test split.

``python scripts/model_card.py RUN``, where ``dpc run --output RUN`` made RUN.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from dpc.records.directory import RecordFile
from dpc.stats import wilson
from dpc.tasks import get_task
from dpc.types import Example

MODEL = Path(__file__).resolve().parent.parent / "src/dpc/zoo/model"
METHODS = ("pretrained", "prompt_tuning", "dpc")

INTRODUCTION = """# The embedded model

A Llama of {parameters:,} parameters ({layers} layers, width {width}, {heads} heads, context {context}), trained from
scratch by `dpc zoo train` on texts that `src/dpc/zoo/corpus.py` writes from a seed. It reads plain text with a
byte-level tokenizer of {vocabulary} tokens in which every digit is a token, and is float32. It exists so that every
command works without a download, on a laptop; it knows nothing but the word problems below.

## What it was trained on, and what it is asked

Training texts are word problems in English: a start amount, then one event a month, one to five of them, amounts up to
60. Two things a question does not settle are decided by who wrote the text: whether a week has 7 days (60% of texts) or
5, and whether each step of the rationale names its month (50%). Half of the texts open with a line that states some of
this. The curriculum goes from single steps to chains of five, then adds distractors and shuffled sentences.

The benchmark (`src/dpc/zoo/data/`) is shifted from that, as a user's task is from what their model saw: one house alone
(weeks of 5 days, months named), never a line that says so; three to five events; phrasings that are rare in training
half of the time (15% there); half of the stories shuffled; a week in 45% of the problems. A soft prompt has something
to close: it can say which house is meant. No chain of operations of dev or test, and no tuple of numbers, is in train
or in the model's training texts (chains of three and more).
"""


def loss_table() -> list[str]:
    """The loss curve, thinned to a dozen lines."""
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
    """Lines of the gold rationale before the answer."""
    return (example.rationale or "").count("\n")


def main(run: Path) -> None:
    """Write the card beside the weights."""
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
        f"`dpc zoo train --output DIR` with the recipe's own settings: {settings}.",
        f"On one core of a shared machine: a median of {median(speeds):,.0f} tokens/s, about {minutes:.0f} minutes.",
        "Losses are nats per token; beside them, every line of the curve is in `loss_curve.jsonl`.",
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
