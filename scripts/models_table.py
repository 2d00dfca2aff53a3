"""The tables of ``docs/models.md``, from ``docs/results/models.json``, which ``make models`` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DTYPES = ("float32", "bfloat16")
TOKENS = ("slots", "drafts", "plain")
WHAT = {
    "slots": "continuous batching",
    "drafts": "drafts",
    "plain": "plain batches",
    "saliency": "saliency",
    "trigger": "trigger",
    "gradient": "tuning",
}
REFUSED, WRONG = "refused: ", "wrong: "
Entry = Mapping[str, Any]


def summary(results: Mapping[str, Any]) -> list[str]:
    """How many configurations were compared, with which versions, and how they came out."""
    entries = results["configurations"].values()
    counts = {name: sum(map(belongs, entries)) for name, belongs in _CLASSES.items()}
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [f"{counts['works']} do all that dpc does"]
    parts += [f"{counts['partly']} do a part of it"] if counts["partly"] else []
    parts += [f"{counts['refused']} are refused"]
    parts += [f"{counts['wrong']} are known to be wrong"] if counts["wrong"] else []
    return [f"Of {len(entries)} configurations {', '.join(parts)}. Versions: {versions}."]


def works(results: Mapping[str, Any]) -> list[str]:
    """The configurations that do everything, with the errors that were measured."""
    lines = ["| `model_type` | models | layers | saliency | tuning | in bfloat16 |", "|---|---|---|---|---|---|"]
    for entry in _chosen(results, "works"):
        exact = entry["float32"]
        cells = (_layers(entry), exact["saliency"], exact["gradient"], _sixteen_bits(entry["bfloat16"]))
        lines.append(_row(f"`{entry['model_type']}`", entry["models"], *cells))
    return lines


def partly(results: Mapping[str, Any]) -> list[str]:
    """The configurations that do a part, and what is refused with which message."""
    if not _chosen(results, "partly"):
        return ["None."]
    return _reasons(results, "partly", "works", "refused", REFUSED)


def refused(results: Mapping[str, Any]) -> list[str]:
    """The configurations that are refused before weights are loaded, with the message."""
    lines = ["| `model_type` | models | message |", "|---|---|---|"]
    for entry in _chosen(results, "refused"):
        # Without the name of the folder, and what to do instead.
        reason = entry["refused"].partition(": ")[2].rpartition("; choose ")[0] or entry["refused"]
        lines.append(_row(f"`{entry['model_type']}`", entry["models"], reason))
    return lines


def wrong(results: Mapping[str, Any]) -> list[str]:
    """The configurations that are neither equal nor refused, if there are any."""
    if not _chosen(results, "wrong"):
        return ["None."]
    return _reasons(results, "wrong", "equal", "wrong", WRONG)


TABLES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "summary": summary,
    "works": works,
    "partly": partly,
    "refused": refused,
    "wrong": wrong,
}


def _verdicts(entry: Entry, dtypes: Iterable[str] = DTYPES) -> list[str]:
    return [verdict for dtype in dtypes for verdict in entry.get(dtype, {}).values()]


def _is_wrong(entry: Entry) -> bool:
    return any(verdict.startswith(WRONG) for verdict in _verdicts(entry)) or not entry.get("refused_alike", True)


def _is_partly(entry: Entry) -> bool:
    return any(verdict.startswith(REFUSED) for verdict in _verdicts(entry)) and not _is_wrong(entry)


_CLASSES: dict[str, Callable[[Entry], bool]] = {
    "works": lambda entry: "refused" not in entry and not _is_wrong(entry) and not _is_partly(entry),
    "partly": _is_partly,
    "refused": lambda entry: "refused" in entry and not _is_wrong(entry),
    "wrong": _is_wrong,
}


def _chosen(results: Mapping[str, Any], name: str) -> list[Entry]:
    return [entry for entry in results["configurations"].values() if _CLASSES[name](entry)]


def _reasons(results: Mapping[str, Any], name: str, right: str, other: str, mark: str) -> list[str]:
    lines = [f"| `model_type` | models | layers | {right} | {other} |", "|---|---|---|---|---|"]
    for entry in _chosen(results, name):
        good: list[str] = []
        bad: dict[str, list[str]] = {}
        for key, label in WHAT.items():
            said = [entry[dtype][key] for dtype in DTYPES if dtype in entry]
            failed = next((verdict for verdict in said if verdict.startswith(mark)), None)
            if failed is None:
                good.append(label)
            else:
                bad.setdefault(failed.removeprefix(mark), []).append(label)
        reasons = "<br>".join(f"{', '.join(labels)}: {reason}" for reason, labels in bad.items())
        cells = (_layers(entry), ", ".join(good) or "nothing", reasons or "not the same line everywhere")
        lines.append(_row(f"`{entry['model_type']}`", entry["models"], *cells))
    return lines


def _layers(entry: Entry) -> str:
    if "layers" not in entry:
        return ""
    layers, softmax = entry["layers"], entry["softmax_attention"]
    return str(layers) if len(softmax) in (0, layers) else f"{layers}, softmax attention in {len(softmax)}"


def _sixteen_bits(verdicts: Mapping[str, str]) -> str:
    ties = any("ties" in verdicts[key] for key in TOKENS)
    answers = "answers part at ties" if ties else "answers equal"
    return f"{answers}; saliency {verdicts['saliency']}; tuning {verdicts['gradient']}"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
