"""The virtual tokens of a PEFT adapter: the vectors that PEFT's own ``generate`` puts in front of a question."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from dpc.errors import UserError
from dpc.model.adapter_folder import CONFIG_FILE
from dpc.model.peft_adapter import SOFT_PROMPTS, PeftAdapter, no_prompt

WEIGHTS_KEY = "prompt_embeddings"
_TASK_KEYS = ("prefix_task_cols", "prefix_task_rows")


def virtual_tokens(adapter: PeftAdapter) -> Float32[Tensor, "prompt d"]:
    """The vectors of a soft prompt's files, in float32 on the CPU.

    PEFT stores what a prompt encoder computes (P_TUNING), and embeddings with their learned change (CPT): plain vectors
    as for PROMPT_TUNING. MULTITASK_PROMPT_TUNING stores factors, whose product is taken here; it must be of one task.

    Raises ``UserError`` if the adapter is no soft prompt, changes more than the input, or if configuration and tensors
    contradict each other.
    """
    label = adapter.label
    adapter.refuse_no_prompt()
    adapter.check_task()
    if adapter.config.get("modules_to_save"):
        modules = ", ".join(adapter.config["modules_to_save"])
        raise UserError(f"{label}: holds weights of the model too ({modules}), expected a soft prompt alone")
    _check_submodules(adapter)
    tensors = adapter.tensors()
    _check_names(adapter, tensors)
    tensors = {name: value.float() for name, value in tensors.items()}
    vectors = tensors[WEIGHTS_KEY]
    _check_shape(adapter, vectors)
    if adapter.kind == "MULTITASK_PROMPT_TUNING":
        vectors = _of_one_task(adapter, tensors)
    if not torch.isfinite(vectors).all():
        raise UserError(f"{label}: {adapter.weights.name} holds values that are not finite; tune it again")
    return vectors


def _check_submodules(adapter: PeftAdapter) -> None:
    submodules = adapter.config.get("num_transformer_submodules")
    if submodules not in (None, 1):
        raise UserError(
            f"{adapter.label}: {CONFIG_FILE} states num_transformer_submodules {submodules}, expected 1, which a "
            "causal language model has; tune the prompt on such a model"
        )


def _check_names(adapter: PeftAdapter, tensors: dict[str, Tensor]) -> None:
    expected = {WEIGHTS_KEY, *(_TASK_KEYS if adapter.kind == "MULTITASK_PROMPT_TUNING" else ())}
    if missing := sorted(expected - tensors.keys()):
        raise UserError(
            f"{adapter.label}: {adapter.weights.name} has no tensor '{missing[0]}'; save it again with PEFT"
        )
    if unknown := sorted(tensors.keys() - expected):
        raise UserError(
            f"{adapter.label}: {adapter.weights.name} holds '{unknown[0]}' too, expected the vectors of a soft prompt "
            "alone; weights of the model itself belong into its own folder"
        )
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise UserError(f"{adapter.label}: '{name}' holds {value.dtype}, expected floating-point values")


def _check_shape(adapter: PeftAdapter, vectors: Float[Tensor, "..."]) -> None:
    if vectors.ndim != 2:
        raise UserError(f"{adapter.label}: '{WEIGHTS_KEY}' has the shape {list(vectors.shape)}, expected [prompt, d]")
    stated = {
        "num_virtual_tokens": (adapter.config.get("num_virtual_tokens"), len(vectors)),
        "token_dim": (adapter.config.get("token_dim") or vectors.shape[1], vectors.shape[1]),
    }
    if adapter.kind == "CPT":
        stated["cpt_token_ids"] = (len(adapter.config.get("cpt_token_ids") or []), len(vectors))
    for name, (value, found) in stated.items():
        if value != found:
            length = "a list of " if name == "cpt_token_ids" else ""
            raise UserError(
                f"{adapter.label}: {adapter.weights.name} holds {len(vectors)} vectors of {vectors.shape[1]} values "
                f"where {CONFIG_FILE} states {name} {length}{value}; restore the file that was changed"
            )


def _of_one_task(adapter: PeftAdapter, tensors: dict[str, Tensor]) -> Float32[Tensor, "prompt d"]:
    vectors, columns, rows = (tensors[name] for name in (WEIGHTS_KEY, *_TASK_KEYS))
    tasks, (length, width) = adapter.config.get("num_tasks"), vectors.shape
    shapes = (tuple(columns.shape[:2]), (rows.shape[0], rows.shape[-1]), columns.shape[-1])
    if (columns.ndim, rows.ndim) != (3, 3) or shapes != ((tasks, length), (tasks, width), rows.shape[1]):
        raise UserError(
            f"{adapter.label}: factors of the shapes {list(columns.shape)} and {list(rows.shape)}, expected [{tasks}, "
            f"{length}, rank] and [{tasks}, rank, {width}], as {CONFIG_FILE} states; restore the file that was changed"
        )
    if tasks != 1:
        raise UserError(
            f"{adapter.label}: is a MULTITASK_PROMPT_TUNING adapter of {tasks} tasks, expected one of a single task; "
            "docs/adapters.md shows how PEFT makes one of them an adapter of its own (EXACT_SOURCE_TASK)"
        )
    return vectors * (columns[0] @ rows[0])


def virtual_tokens_of(peft_model: nn.Module) -> tuple[Float[Tensor, "prompt d"], str]:
    """The vectors that a PEFT model in memory puts in front of a question, and the name of its base model.

    They are those of the active adapter, on the model's device.

    Raises ``UserError`` for another kind of model or adapter.
    """
    from peft import PeftModel

    if not isinstance(peft_model, PeftModel):
        raise UserError(f"{type(peft_model).__name__}: expected a PEFT model with a soft prompt")
    config = peft_model.active_peft_config
    kind = str(config.peft_type.value)
    if kind not in SOFT_PROMPTS:
        raise UserError(f"{type(peft_model).__name__}: {no_prompt(kind)}")
    task = None
    if kind == "MULTITASK_PROMPT_TUNING":
        if config.num_tasks != 1:
            name = type(peft_model).__name__
            raise UserError(f"{name}: is a {kind} adapter of {config.num_tasks} tasks, expected one of a single task")
        task = torch.zeros(1, dtype=torch.long, device=peft_model.device)
    vectors = peft_model.get_prompt(batch_size=1, task_ids=task)[0].detach().to(peft_model.device)
    return vectors, str(config.base_model_name_or_path or type(peft_model.get_base_model()).__name__)
