"""Settings: every number that the paper leaves open, validated, with its default and the reason for it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dpc.errors import UserError
from dpc.types import Aggregation, HeadReduction, InfluenceRow, MaskValue, PruneBy, PruneScope, Rounding

Init = Literal["random", "sample-vocab", "text"]
Autocast = Literal["auto", "bfloat16", "off"]
ArcRationale = Literal["answer", "worldtree"]
Chat = Literal["auto", "on", "off"]


def _switch(value: Any) -> Any:
    """YAML reads on and off as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TuningSettings(_Group):
    """How a soft prompt is tuned."""

    length: int = Field(100, ge=1, description="virtual tokens P; the paper's 100")
    init: Init = Field("text", description="start from one training example, as the paper does for two of three models")
    init_question: str | None = Field(
        None,
        min_length=1,
        description="how the question of the example for init=text begins, among train and dev rows; none: the first "
        "train row",
    )
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW, at its peak; the paper's")
    epochs: int = Field(3, ge=1, description="passes over the training rows, unless steps says how many updates")
    steps: int | None = Field(None, ge=1, description="updates; none: as epochs say")
    batch_size: int = Field(8, ge=1, description="rows in one pass of the network")
    gradient_accumulation: int = Field(
        1, ge=1, description="passes an update; an update averages over all their tokens"
    )
    warmup_share: float = Field(0.05, ge=0, le=1, description="of all updates, linear, before a cosine to zero")
    weight_decay: float = Field(0.0, ge=0, description="none: it would shrink the magnitudes that corruption ranks")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="longer gradients are cut, so no odd row throws the prompt away"
    )
    evaluate_every: int = Field(100, ge=1, description="updates between two looks at the dev rows")
    dev_limit: int = Field(200, ge=1, description="dev rows looked at while tuning; more choose better and cost more")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="time between two checkpoints; what a kill can cost; 0: one after each update"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of initial vectors and the order of rows")
    autocast: Autocast = Field(
        "auto", description="bfloat16 for a float32 model on a GPU that has it; the prompt stays float32"
    )
    max_length: int | None = Field(
        None, ge=1, description="longest row in tokens, prompt included; none: the model's context"
    )
    by_length: bool = Field(
        True, description="rows of like length together, among 16 updates' worth, which saves padding; false: at random"
    )
    shared_prompt: bool = Field(
        True, description="run the prompt through the model once for all rows of a pass; false: in front of each"
    )

    def deciding(self) -> dict[str, Any]:
        """What a tuned prompt depends on: everything but how often checkpoints are written."""
        return self.model_dump(exclude={"checkpoint_seconds"})


class MethodSettings(_Group):
    """How saliency, trigger and corruption are computed."""

    head_reduction: HeadReduction = Field(
        "abs_of_sum",
        description="absolute value after (or before) the sum over heads; after, as in the paper's ancestor",
    )
    shallow_start: float = Field(
        2 / 32,
        ge=0,
        le=1,
        description="first shallow layer, a fraction of the depth; the paper sees peaks from 2 of 32",
    )
    shallow_stop: float = Field(
        10 / 32, ge=0, le=1, description="last shallow layer, a fraction of the depth; the paper sees peaks to 10 of 32"
    )
    shallow_aggregation: Aggregation = Field(
        "mean", description="S_acc over the shallow layers: their mean, as in Eq 6, or the largest of them"
    )
    row: InfluenceRow = Field(
        "at",
        description="s_i is read in the row at token i's position, or in the row before, which wrote it; the paper "
        "speaks of the flow to the i-th token, and its ancestor indexes rows by the tokens' own positions",
    )
    loss_end_token: bool = Field(
        False,
        description="count the end token in the rationale's loss; the paper's rationale ends with the answer. True "
        "needs a pass through the whole network for the trigger",
    )
    accumulation_k: float = Field(
        2.0, gt=1, description="k of Eq 7: one virtual token gathers over k times the mean; reported, decides nothing"
    )
    gamma: float = Field(10.0, ge=0, le=100, description="percent of values pruned from the other vectors; the paper's")
    prune_scope: PruneScope = Field(
        "vector", description="rank magnitudes in each vector, or in the whole prompt; vectors keep an equal share"
    )
    prune_by: PruneBy = Field(
        "magnitude", description="prune the smallest magnitudes, or the smallest signed values; the paper says smallest"
    )
    prune_rounding: Rounding = Field(
        "floor",
        description="of the pruned count, where gamma percent is no whole number; floor prunes no more than gamma",
    )
    mask_key: bool = Field(True, description="mask the key token's vector, as the paper does")
    mask_value: MaskValue = Field(
        "zero", description="what a masked vector becomes: zero, as in the paper, or the mean of the prompt's vectors"
    )
    corrupt_short: bool = Field(
        False,
        description="all_corruption also corrupts answers too short to be judged; false: they keep their first "
        "answer, as with every trigger",
    )
    random_may_draw_key: bool = Field(
        True,
        description="random_corruption draws among all tokens; false: among all but the key token, which is traced",
    )
    beams: int = Field(2, ge=1, le=64, description="hypotheses that beam search keeps")
    seed: int = Field(
        0, ge=0, lt=2**63, description="of what random_corruption and random_trigger draw; no other method looks at it"
    )

    def deciding(self) -> dict[str, Any]:
        """What a calibrated threshold depends on: everything but what only methods without one look at."""
        return self.model_dump(exclude={"seed", "beams"})

    @model_validator(mode="after")
    def _ordered(self) -> MethodSettings:
        if self.shallow_start > self.shallow_stop:
            raise ValueError(f"shallow_start {self.shallow_start} is above shallow_stop {self.shallow_stop}")
        return self


class DecodingSettings(_Group):
    """How answers are generated, greedily as in the paper, and traced. None of these changes an answer in float32."""

    batch_size: int = Field(64, ge=1, description="instances decoded together: slots, each at a position of its own")
    saliency_batch_size: int = Field(
        4, ge=1, description="instances traced together; more take more memory and, on a CPU, no less time"
    )
    max_new_tokens: int | None = Field(None, ge=1, description="longest answer in tokens; none: what the task names")
    slots: bool = Field(
        True,
        description="fill freed places at once and share the prompt's keys and values; false: plain padded batches",
    )
    compile: bool = Field(
        False, description="compile passes of few tokens with torch.compile: minutes once, then fewer, larger kernels"
    )
    cuda_graphs: bool = Field(
        True, description="on CUDA, record passes of few tokens and replay them; false: launch every operation anew"
    )
    prefixes: int = Field(
        32,
        ge=1,
        description="soft prompts, corrupted ones included, whose keys and values are kept for the next instance",
    )
    drafts: bool = Field(
        True, description="let the second pass check the first answer in one pass, and go on where they part"
    )
    draft_tokens: int = Field(
        4,
        ge=0,
        description="tokens proposed a pass at most, from the first answer or from what others wrote; 0: none, one "
        "token a pass",
    )
    local_trigger: bool = Field(
        True, description="judge R from the last block alone, on what decoding left there; false: a whole backward pass"
    )
    saliency_by_block: bool = Field(
        True,
        description="trace block by block after the prompt's prefix where one graph would be large; false: never",
    )


class ActSettings(_Group):
    """How ``act`` calibrates attention (Yu et al. 2024, arXiv 2406.15765), and how its heads are searched."""

    alpha: float = Field(
        5.0,
        gt=0,
        description="a sink is read with more than alpha / N on average, N the tokens so far, ACT's rule; at 50 tokens "
        "5 is the fixed 0.1 of its code",
    )
    beta: float = Field(0.4, ge=0, lt=1, description="what is left of the attention on a sink; as in ACT's code")
    layer_start: float = Field(
        2 / 32, ge=0, le=1, description="layers below this fraction of the depth are left alone; 2 of 32 in ACT's code"
    )
    layer_stop: float = Field(
        31 / 32, ge=0, le=1, description="layers from this fraction up are left alone; 31 of 32 in ACT's code"
    )
    rows: int = Field(200, ge=1, description="dev rows that heads are searched on; more choose better and cost more")
    max_heads: int | None = Field(
        None, ge=1, description="heads tried, spread evenly over the middle layers; none: all of them"
    )

    @model_validator(mode="after")
    def _ordered(self) -> ActSettings:
        if self.layer_start >= self.layer_stop:
            raise ValueError(f"layer_start {self.layer_start} is not below layer_stop {self.layer_stop}")
        return self


class TaskSettings(_Group):
    """How questions are put to the model, and what single benchmarks leave open."""

    chat: Annotated[Chat, BeforeValidator(_switch)] = Field(
        "auto",
        description="questions as the user's turn of the model's chat template. auto: with a soft prompt, as it was "
        "tuned; without one, where the model stops at the end of its template's turns, as instruct models do",
    )
    shots: int = Field(
        0,
        ge=0,
        description="worked examples before a question, the first rows of the train split, for methods without a soft "
        "prompt; methods with one are asked as it was tuned, without examples",
    )

    arc_rationale: ArcRationale = Field(
        "answer",
        description="arc_challenge has no rationales: tune on the sentence with the answer alone, as ARC comes, or on "
        "WorldTree's explanation before it; train and dev then leave out the rows that have none",
    )
    worldtree: str | None = Field(
        None, min_length=1, description="folder of the WorldTree release, for arc_rationale=worldtree; none: not used"
    )

    @model_validator(mode="after")
    def _joined(self) -> TaskSettings:
        if (self.arc_rationale == "worldtree") != (self.worldtree is not None):
            raise ValueError("arc_rationale=worldtree and worldtree=FOLDER go together; set both or neither")
        return self


class Settings(_Group):
    """All groups; on the command line ``--set group.name=value``."""

    tuning: TuningSettings = Field(default_factory=TuningSettings)
    method: MethodSettings = Field(default_factory=MethodSettings)
    decoding: DecodingSettings = Field(default_factory=DecodingSettings)
    task: TaskSettings = Field(default_factory=TaskSettings)
    act: ActSettings = Field(default_factory=ActSettings)


def parse_settings(assignments: Sequence[str], defaults: dict[str, dict[str, Any]]) -> Settings:
    """``Settings`` from ``group.name=value`` texts over ``defaults``.

    Raises ``UserError`` with every mistake at once, in one line.
    """
    given, wrong = read_assignments(assignments)
    values = {group: dict(defaults.get(group, {})) | given.get(group, {}) for group in Settings.model_fields}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        wrong += [mistake for _, mistake in mistakes(error, Settings)]
    if wrong:
        raise UserError(f"--set: {'; '.join(wrong)}; docs/configuration.md lists every setting")
    return settings


def read_assignments(assignments: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Values by group and name of ``group.name=value`` texts, and what is wrong with the texts that are none."""
    values: dict[str, dict[str, Any]] = {}
    wrong = []
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        group, dot, key = name.strip().partition(".")
        if not equals or not dot or group not in Settings.model_fields:
            groups = ", ".join(Settings.model_fields)
            wrong.append(f"{assignment!r} is not group.name=value with a group of {groups}")
        else:
            values.setdefault(group, {})[key] = None if value.strip().lower() == "none" else value.strip()
    return values, wrong


def mistakes(error: ValidationError, model: type[BaseModel]) -> list[tuple[tuple[str, ...], str]]:
    """Where each mistake is, as names from the outside in, and what to tell the user about it.

    model: what was validated; a name that it does not know gets the nearest one as a hint.
    """
    found = []
    for each in error.errors():
        place = tuple(map(str, each["loc"]))
        if each["type"] == "extra_forbidden":
            found.append((place, f"{'.'.join(place)}: there is no such setting{_did_you_mean(place, model)}"))
            continue
        message = each["msg"].removeprefix("Value error, ")
        value = "" if each["type"] == "value_error" else f", got {each['input']!r}"
        found.append((place, f"{'.'.join(place)}: {message[:1].lower()}{message[1:]}{value}"))
    return found


def _did_you_mean(place: tuple[str, ...], model: type[BaseModel]) -> str:
    fields: Any = model.model_fields
    for name in place[:-1]:
        kind = fields[name].annotation if name in fields else None
        fields = getattr(kind, "model_fields", {})
    near = get_close_matches(place[-1], fields, 1)
    return f"; did you mean {near[0]}?" if near else ""
