"""Records for other tools: one parquet file, or the sample files of lm-evaluation-harness."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from dpc.errors import UserError
from dpc.files import write_atomically
from dpc.records.directory import RunDirectory
from dpc.tasks import Task, task_of_run
from dpc.tasks.base import Grader
from dpc.types import Decision, Example, Generation, Record

# What lm-evaluation-harness writes where a filter finds no answer.
NO_ANSWER = "[invalid]"

_NAME, _TEXT = pa.dictionary(pa.int32(), pa.string()), pa.string()
_IDS, _FIGURES = pa.list_(pa.int32()), pa.list_(pa.float64())
# Fields of a decision and of its evidence, a column each. ``more``: the figures of a trigger of one's own, as JSON.
_DECISION = {
    "trigger": _NAME,
    "judged": pa.bool_(),
    "triggered": pa.bool_(),
    "statistic": pa.float64(),
    "threshold": pa.float64(),
    "key_token": pa.int32(),
}
_EVIDENCE = {
    "not_judged_because": _TEXT,
    "beta": pa.float64(),
    "late_flow": pa.float64(),
    "rationale_loss": pa.float64(),
    "influence": _FIGURES,
    "draw": pa.float64(),
    "accumulated": pa.bool_(),
    "profile": _FIGURES,
    "corruption": _NAME,
    "more": _TEXT,
}
_COLUMNS = {
    "model": _NAME,
    "task": _NAME,
    "split": _NAME,
    "method": _NAME,
    "asked": _NAME,
    "example_id": _TEXT,
    "question": _TEXT,
    "gold": _TEXT,
    "choices": pa.list_(pa.string()),
    "first_text": _TEXT,
    "first_finish": _NAME,
    "first_ids": _IDS,
    "first_correct": pa.bool_(),
    "first_extracted": _TEXT,
    "first_reason": _NAME,
    "second_text": _TEXT,
    "second_finish": _NAME,
    "second_ids": _IDS,
    "correct": pa.bool_(),
    "extracted": _TEXT,
    "reason": _NAME,
    **_DECISION,
    **_EVIDENCE,
    "forward_passes": pa.int64(),
    "backward_passes": pa.int64(),
    "generated_tokens": pa.int64(),
    "seconds": pa.float64(),
}


@dataclass(frozen=True, slots=True)
class Export:
    """An evaluated run: its description, its rows by id, and the records of each method."""

    path: Path
    made_from: Mapping[str, Any]
    examples: Mapping[str, Example]
    records: Mapping[str, list[Record]]

    @classmethod
    def read(cls, run: RunDirectory) -> Export:
        """Read ``run``. Raises ``UserError`` where it was not evaluated, or a record belongs to no row."""
        made_from = run.evaluated()
        examples = {example.id: example for example in run.read_examples()}
        records = {name: run.records(name).read() for name in run.methods()}
        if not any(records.values()):
            raise UserError(f"{run.path}: has no records of a method; make them with `dpc eval`")
        for name, made in records.items():
            if stray := [record.example_id for record in made if record.example_id not in examples]:
                raise UserError(f"{run.path}: record {stray[0]} of {name} is of no row in {run.examples.name}")
        return cls(run.path, made_from, examples, records)

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.made_from["data"]["task"])

    def load_task(self, name: str | None) -> Task:
        """The run's task. name: needed where it is a Python file. Raises ``UserError`` for another task."""
        return task_of_run(self.task, name, self.path)

    def pairs(self, method: str) -> Iterator[tuple[int, Example, Record]]:
        """Number, example and record of each row that ``method`` answered, in the order of the rows."""
        made = {record.example_id: record for record in self.records[method]}
        for number, example in enumerate(self.examples.values()):
            if example.id in made:
                yield number, example, made[example.id]


def parquet_table(export: Export, also_graded: Mapping[str, Grader]) -> pa.Table:
    """One row per record and method: flat columns, and lists for values per token (s_i, S_acc, token ids).

    The columns of the second answer are null where there is none; ``correct``, ``extracted`` and ``reason`` are of the
    answer that counts. The columns of the decision and of its evidence are null where nothing was computed. A further
    grader adds the column ``correct_NAME``. The schema's metadata holds what the evaluation was made from, under
    ``dpc.eval``.
    """
    rows = []
    for method in export.records:
        for _, example, record in export.pairs(method):
            text = record.answer.final.text
            more = {f"correct_{name}": grade(example, text).correct for name, grade in also_graded.items()}
            rows.append(_flat(export, example, record) | more)
    columns = _COLUMNS | {f"correct_{name}": pa.bool_() for name in also_graded}
    return pa.Table.from_pylist(rows, pa.schema(columns, {"dpc.eval": json.dumps(export.made_from)}))


def write_parquet(export: Export, also_graded: Mapping[str, Grader], path: Path) -> None:
    """Write ``parquet_table`` to ``path``. Raises ``UserError`` where it cannot be written."""
    sink = pa.BufferOutputStream()
    parquet.write_table(parquet_table(export, also_graded), sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def _flat(export: Export, example: Example, record: Record) -> dict[str, Any]:
    answer = record.answer
    return {
        "model": export.made_from["model"]["name"],
        "task": export.task,
        "split": export.made_from["data"]["split"],
        "method": record.method,
        "asked": record.asked,
        "example_id": example.id,
        "question": example.question,
        "gold": example.answer,
        "choices": example.choices,
        **_pass("first", answer.first),
        "first_correct": record.score_first.correct,
        "first_extracted": record.score_first.extracted,
        "first_reason": record.score_first.reason,
        **_pass("second", answer.second),
        **asdict(record.score_final),
        **({} if answer.decision is None else _decision(answer.decision)),
        **asdict(answer.cost),
    }


def _decision(decision: Decision) -> dict[str, Any]:
    evidence = asdict(decision.evidence)
    more = evidence.pop("more")
    return {
        **{name: getattr(decision, name) for name in _DECISION},
        "not_judged_because": evidence.pop("reason"),
        **evidence,
        "more": json.dumps(more) if more else None,
    }


def _pass(name: str, generation: Generation | None) -> dict[str, Any]:
    if generation is None:
        return {}
    return {f"{name}_text": generation.text, f"{name}_finish": generation.finish, f"{name}_ids": generation.ids}


def write_lm_eval(export: Export, task: Task, folder: Path) -> list[Path]:
    """Write ``MODEL__METHOD/samples_TASK_DATE.jsonl`` for each method, and return the paths.

    The date is that of the method's last record, so that the same run always gives the same files.
    """
    written = []
    for method in export.records:
        lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in lm_eval_samples(export, method, task)]
        seconds = RunDirectory(export.path).records(method).path.stat().st_mtime
        date = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat().replace(":", "-")
        model = re.sub(r'["<>:/|\\?*\[\]]+', "__", export.made_from["model"]["name"])
        name = re.sub(r"\W", "_", task.name)
        path = folder / f"{model}__{method}" / f"samples_{name}_{date}.jsonl"
        write_atomically(path, "".join(lines).encode())
        written.append(path)
    return written


def lm_eval_samples(export: Export, method: str, task: Task) -> Iterator[dict[str, Any]]:
    """Samples of one method as lm-evaluation-harness logs them: for each grader, a line a row.

    The task's own grader is the filter ``none``; where there are further ones it is ``strict-match`` and those are
    ``NAME-extract``, as in the harness's gsm8k. ``arguments`` hold the text of the question, without chat template
    and worked examples, ``resps`` the answer that counts. The layout has no fields for soft prompts and second passes.
    Layout: https://github.com/EleutherAI/lm-evaluation-harness/tree/034ab03621186e68aa1f73ee1508370580ea77b5, in
    ``lm_eval/evaluator.py`` (the sample) and ``lm_eval/loggers/evaluation_tracker.py`` (the file).
    """
    budget = export.made_from["decoding"]["max_new_tokens"]
    options: dict[str, Any] = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": budget}
    filters = ["strict-match" if task.also_graded else "none", *(f"{name}-extract" for name in task.also_graded)]
    for name, grader in zip(filters, [None, *task.also_graded.values()], strict=True):
        for number, example, record in export.pairs(method):
            text, prompt, doc = record.answer.final.text, task.prompt(example), asdict(example)
            score = grader(example, text) if grader else record.score_final
            yield {
                "doc_id": number,
                "doc": doc,
                "target": example.answer,
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": options}},
                "resps": [[text]],
                "filtered_resps": [NO_ANSWER if score.extracted is None else score.extracted],
                "filter": name,
                "metrics": ["exact_match"],
                "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
                "prompt_hash": _sha256(prompt),
                "target_hash": _sha256(example.answer),
                "exact_match": float(score.correct),
            }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
