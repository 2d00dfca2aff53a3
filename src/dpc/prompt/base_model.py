"""How PEFT alone finds the model of a soft prompt: what adapter_config.json names, and the adapter's README.md."""

from __future__ import annotations

from pathlib import Path

from dpc.model.lm import FrozenLM
from dpc.model.loading import EMBEDDED
from dpc.zoo import model_folder

README_FILE = "README.md"


def loadable_base(lm: FrozenLM) -> tuple[str, str | None]:
    """What ``from_pretrained`` of transformers loads the model of ``lm`` from: a path or hub id, and its revision.

    Paths are absolute. Of a model with an adapter it is the adapter: transformers loads the model below it too.
    """
    if lm.adapter is not None and lm.adapter.file is not None:
        named = lm.adapter.name
        is_hub_id = not Path(named).expanduser().exists() and named.count("/") == 1
        return (named if is_hub_id else str(Path(lm.adapter.file.path).parent)), None
    return _without_adapter(lm)


def _without_adapter(lm: FrozenLM) -> tuple[str, str | None]:
    if lm.name == EMBEDDED:
        return str(model_folder()), None
    if Path(lm.name).expanduser().exists():
        return str(Path(lm.name).expanduser().absolute()), None
    return lm.name, getattr(lm.config, "_commit_hash", None)


def adapter_readme(lm: FrozenLM, length: int) -> str:
    """The text of README.md beside an adapter of ``length`` virtual tokens: how PEFT loads it on any machine."""
    name, revision = _without_adapter(lm)
    where = "BASE" if Path(name).is_absolute() else name
    at = f', revision="{revision}"' if revision else ""
    base = [f'base = AutoModelForCausalLM.from_pretrained("{where}"{at})']
    if lm.adapter is not None:
        base.append(f'base = PeftModel.from_pretrained(base, "{lm.adapter.name}").get_base_model()')
    hint = "the folder that `dpc zoo path` prints" if lm.name == EMBEDDED else f"a copy of `{lm.name}`"
    moved = f"`BASE` is {hint}. " if where == "BASE" else ""
    lines = [
        *("---", "library_name: peft", "tags: [prompt-tuning]", "---", "", "# Soft prompt", ""),
        f"{length} virtual tokens for the model `{lm.title}`, tuned with dpc. `dpc.json` describes how.",
        *("", "```python", "from peft import PeftModel", "from transformers import AutoModelForCausalLM", ""),
        *(*base, 'model = PeftModel.from_pretrained(base, "FOLDER")', "```", ""),
        f"{moved}`FOLDER` is this folder. While the model is where `adapter_config.json` says,",
        "`AutoPeftModelForCausalLM.from_pretrained` loads both.",
        "",
    ]
    return "\n".join(lines)
