"""A recipe as a value, read from YAML and the command line; its mistakes are collected, not raised one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dpc.errors import UserError
from dpc.methods import check_methods, get_method, get_methods
from dpc.settings import Settings, mistakes, read_assignments
from dpc.tasks import get_task
from dpc.zoo import SETTINGS

if TYPE_CHECKING:
    from dpc.methods.method import Method

Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
DTYPES = get_args(Dtype)
Place = tuple[str, ...]


class Recipe(BaseModel):
    """What a run is made from: ``dpc run`` tunes, calibrates, evaluates, analyses and reports from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("zoo", min_length=1, description="hub id, folder or GGUF file of a causal language model")
    revision: str | None = Field(None, min_length=1, description="branch, tag or commit of the model on the hub")
    adapter: str | None = Field(None, min_length=1, description="folder or hub id of an adapter for its layers")
    task: str = Field("zoo", description="benchmark")
    data: str | None = Field(None, min_length=1, description="hub id, folder or file; none: the task's own source")
    dtype: Dtype = Field("auto", description="type of the weights")
    quantize: Literal["4bit", "8bit"] | None = Field(None, description="4bit: linear layers in 4 bits of bitsandbytes")
    device: str = Field("auto", min_length=1, description="auto, cpu, cuda, cuda:1 ...")
    methods: tuple[str, ...] = Field(("pretrained", "prompt_tuning", "dpc"), description="what is compared")
    limit: int | None = Field(None, ge=1, description="only the first test rows")
    seeds: int = Field(1, ge=1, description="prompts tuned, each from a seed of its own")
    analyze: bool = Field(True, description="draw the figures of the paper")
    settings: Settings = Field(default_factory=Settings)

    @property
    def chosen(self) -> list[Method]:
        """The methods as values. Raises ``UserError`` as ``get_methods`` does."""
        return get_methods(self.methods)

    @property
    def tunes(self) -> bool:
        """Whether one of the methods needs a soft prompt."""
        return any("prompt" in method.requires for method in self.chosen)

    @property
    def asks_alone(self) -> bool:
        """Whether one of the methods asks without a soft prompt."""
        return any("prompt" not in method.requires for method in self.chosen)

    @property
    def calibrates(self) -> list[Method]:
        """One method for each trigger whose threshold is to be chosen: ``dpc`` for the trigger ``flow``."""
        found = {m.calibrated: get_method("dpc") if m.calibrated == "flow" else m for m in self.chosen}
        return [method for name, method in found.items() if name is not None]

    @property
    def searches_heads(self) -> bool:
        """Whether heads are searched for ACT."""
        return any("act_heads" in method.requires for method in self.chosen)

    @property
    def draws_figures(self) -> bool:
        """Whether figures are drawn: they show what DPC looks at."""
        return self.analyze and "dpc" in self.methods

    def directories(self, output: Path) -> dict[int, Path]:
        """The run directory of each tuning seed: ``output`` itself for one seed, ``seed-N`` in it for several."""
        first = self.settings.tuning.seed
        if self.seeds == 1:
            return {first: output}
        return {seed: output / f"seed-{seed}" for seed in range(first, first + self.seeds)}

    def settings_of(self, seed: int) -> Settings:
        """The settings with another seed of tuning."""
        tuning = self.settings.tuning.model_copy(update={"seed": seed})
        return self.settings.model_copy(update={"tuning": tuning})

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        _as_value_error(lambda: get_task(task))
        return task

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        _as_value_error(lambda: check_methods(methods))
        return methods


def _as_value_error(check: Callable[[], object]) -> None:
    try:
        check()
    except UserError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Draft:
    """A recipe that may hold mistakes. Where it does, ``recipe`` has a default instead, so that checks can go on.

    name: of the recipe, for messages. doubtful: the places, names from the outside in, that hold a default for that
    reason.
    """

    name: str
    recipe: Recipe
    mistakes: tuple[str, ...]
    doubtful: tuple[Place, ...] = ()

    def sound(self, *places: Place) -> bool:
        """Whether none of ``places``, nor what is in them or around them, is in doubt."""
        return not any(a[: len(b)] == b[: len(a)] for a in self.doubtful for b in places)

    def refuse(self, more: Sequence[str] = ()) -> None:
        """Raise ``UserError`` with every mistake, its own and ``more``, unless there is none."""
        found = list(dict.fromkeys([*self.mistakes, *more]))
        if len(found) == 1:
            raise UserError(f"{self.name}: {found[0]}" if self.name else found[0])
        if found:
            numbered = " ".join(f"({number}) {mistake};" for number, mistake in enumerate(found, 1)).rstrip(";")
            raise UserError(f"{self.name + ': ' if self.name else ''}{len(found)} mistakes: {numbered}")


def draft_recipe(name: str | None, options: Mapping[str, Any], assignments: Sequence[str]) -> Draft:
    """The recipe ``name``, or the defaults, with what the command line puts in place of its entries.

    name: a file, or the end of a shipped recipe's path. options: by field, None for one that was not given.
    assignments: texts ``group.name=value`` over its settings. The embedded model brings its own defaults for tuning,
    under what the recipe and the command line say. Raises ``UserError`` for a file that cannot be read at all.
    """
    path = None if name is None else _find(name)
    values = {} if path is None else _read(path)
    values.update({key: value for key, value in options.items() if value is not None})
    given, wrong = read_assignments(assignments)
    settings = values.get("settings", {})
    if isinstance(settings, dict):
        defaults = SETTINGS if values.get("model", "zoo") == "zoo" else {}
        values["settings"] = _over(_over(defaults, settings), given)
    return _draft("" if name is None else f"recipe {name}", values, wrong)


def _draft(name: str, values: dict[str, Any], wrong: list[str]) -> Draft:
    doubtful: list[Place] = []
    while True:
        try:
            return Draft(name, Recipe.model_validate(values), tuple(wrong), tuple(doubtful))
        except ValidationError as error:
            for place, mistake in mistakes(error, Recipe):
                wrong.append(mistake)
                doubtful.append(place)
                _drop(values, place)


def _drop(values: dict[str, Any], place: Place) -> None:
    """Remove what is wrong, or what is around it: a list for its item."""
    inner = values.get(place[0])
    if len(place) > 1 and isinstance(inner, dict) and place[1] in inner:
        _drop(inner, place[1:])
    else:
        values.pop(place[0], None)


def _over(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` over ``defaults``, group by group."""
    merged = {name: dict(group) if isinstance(group, Mapping) else group for name, group in defaults.items()}
    for name, group in values.items():
        both = isinstance(group, Mapping) and isinstance(merged.get(name), dict)
        merged[name] = merged[name] | dict(group) if both else group
    return merged


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(files("dpc.run.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*/*.yaml"))}


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = shipped_recipes()
    asked = path.with_suffix("").parts if path.suffix in (".yaml", ".yml") else path.parts
    for found in shipped.values():
        if found.with_suffix("").parts[-len(asked) :] == asked:
            return found
    near = get_close_matches(asked[-1] if asked else "", shipped, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"recipe {name}: no such file, and none of the shipped ones: {', '.join(shipped)}{hint}")


class _Loader(yaml.SafeLoader):
    """YAML without names that are there twice, of which the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise yaml.MarkedYAMLError(problem=f"{twice!r} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text("utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"recipe {path}: can't be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"recipe {path}: is not YAML ({_where(error)}); mend the file") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"recipe {path}: expected names with values, such as `task: gsm8k`; mend the file")
    return values


def _where(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{problem or error}" + (f", line {mark.line + 1}" if mark else "")
