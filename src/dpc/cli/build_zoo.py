"""Make the embedded default again: its benchmark and its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.zoo.corpus import BENCHMARK_ROWS, benchmark_rows


def write_benchmark(output: Path) -> None:
    """Write every split of the benchmark as JSON lines."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for split, count in BENCHMARK_ROWS.items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in benchmark_rows(split, count)]
            (output / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
            print(f"{output / f'{split}.jsonl'}: {count} rows")
    except OSError as error:
        raise UserError(f"--output {output}: can't be written ({error.strerror}); choose another folder") from error


def train_with_progress(output: Path, resume: bool, changes: dict[str, Any]) -> None:
    """Train the model by the recipe, with ``changes`` that are not None, showing loss, speed and time left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from dpc.zoo.build import Recipe
    from dpc.zoo.train import TrainingProgress, train

    recipe = Recipe(**{name: value for name, value in changes.items() if value is not None})
    columns = (BarColumn(), TextColumn("{task.percentage:.1f}%"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}")) as bars:
        row = bars.add_task("train", total=recipe.total_tokens, note="")

        def show(progress: TrainingProgress) -> None:
            note = f"answer loss {progress.answer_loss:.3f}, {progress.tokens_per_second:,.0f} tokens/s"
            bars.update(row, completed=progress.tokens, note=note)

        train(recipe, output, resume=resume, progress=show)
