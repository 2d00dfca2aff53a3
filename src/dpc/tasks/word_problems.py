"""The embedded benchmark: generated word problems in GSM8K's row format, shipped with the package, and its grader."""

from __future__ import annotations

from pathlib import Path

from dpc.errors import UserError
from dpc.settings import TaskSettings
from dpc.tasks.base import Task, check_split
from dpc.tasks.gsm8k import prompt, read_examples, score, score_flexible, target
from dpc.types import Example

EMBEDDED = "embedded"
DATA = Path(__file__).parents[1] / "zoo" / "data"


def load(split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
    """Examples of ``split``: embedded, from a directory with a file ``SPLIT.jsonl``, or from one ``.jsonl`` file.

    No setting is used.

    Raises:
        UserError: for an unknown split, a source that is not there, or a malformed row.
    """
    check_split(split)
    path = DATA if source in (None, EMBEDDED) else Path(str(source)).expanduser()
    if not path.exists():
        raise UserError(f"{str(path)!r} does not exist: pass {EMBEDDED!r}, a directory with {split}.jsonl, or a file")
    return read_examples(path / f"{split}.jsonl" if path.is_dir() else path, f"zoo/{split}")


TASK = Task(
    name="zoo",
    default_source=EMBEDDED,
    max_new_tokens=160,
    load=load,
    prompt=prompt,
    target=target,
    score=score,
    also_graded={"flexible": score_flexible},
    templated=True,
)
