"""A recipe is whole or it is refused: by name or file, overridden by options, every mistake shown at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dpc.cli import run_command
from dpc.errors import UserError
from dpc.run.data import init_text
from dpc.run.preflight import prepare
from dpc.run.recipes import Recipe, draft_recipe, shipped_recipes
from dpc.tasks import TASKS
from tests.paths import ROOT
from tests.tiny_rows import write_model, write_rows

# Models, tasks and methods of Tables 1, 2 and 3 of the paper.
TABLE_1 = {f"{m}-{t}" for m in ("llama3-8b", "llama2-13b", "mistral-7b") for t in ("gsm8k", "math", "aqua")}
TABLE_2 = {"llama3-8b-gsm8k", "llama3-8b-math", "llama3-8b-aqua"}
TABLE_3 = {f"{m}-{t}" for m in ("llama3-8b", "mistral-7b") for t in ("prontoqa", "arc_challenge", "worldtree")}
HUB = {"llama3-8b": "Meta-Llama-3-8B", "llama2-13b": "Llama-2-13b-hf", "mistral-7b": "Mistral-7B-v0.2"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights cannot be loaded: there are none."""
    return write_model(tmp_path_factory.mktemp("model"), weights=False)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows("gsm8k", tmp_path_factory.mktemp("rows"))


def recipe_file(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text, "utf-8")
    return str(folder / "mine.yaml")


def test_every_cell_of_the_papers_tables_has_a_recipe() -> None:
    assert set(shipped_recipes()) == TABLE_1 | TABLE_3


@pytest.mark.parametrize("name", sorted(TABLE_1 | TABLE_3))
def test_a_shipped_recipe_holds_the_papers_settings(name: str) -> None:
    draft = draft_recipe(name, {}, [])
    assert not draft.mistakes
    recipe, (model, _, task) = draft.recipe, name.rpartition("-")
    assert (recipe.task, recipe.model.split("/")[1]) == (task, HUB[model])
    tuning = recipe.settings.tuning
    assert (tuning.length, tuning.learning_rate, recipe.settings.method.gamma) == (100, 1e-3, 10)
    assert tuning.init == ("random" if model == "llama3-8b" else "text")
    assert {"prompt_tuning", "dpc"} <= set(recipe.methods)
    assert {"pretrained", "act"} <= set(recipe.methods) or name in TABLE_3
    assert {"random_corruption", "all_corruption"} <= set(recipe.methods) or name not in TABLE_2
    assert (recipe.limit, recipe.seeds, recipe.revision, recipe.data) == (None, 1, None, None)


@pytest.mark.parametrize("name", ["mistral-7b-aqua", "paper/mistral-7b-aqua", "recipes/paper/mistral-7b-aqua.yaml"])
def test_a_shipped_recipe_is_found_by_the_end_of_its_path(name: str) -> None:
    assert draft_recipe(name, {}, []).recipe == draft_recipe("mistral-7b-aqua", {}, []).recipe


def test_a_name_that_is_none_is_told_its_neighbour() -> None:
    with pytest.raises(UserError, match="did you mean llama3-8b-gsm8k"):
        draft_recipe("llama3-8b-gms8k", {}, [])
    with pytest.raises(UserError, match="no such file"):
        draft_recipe("b-gsm8k", {}, [])


def test_options_and_assignments_stand_over_the_recipe_and_it_over_the_defaults(tmp_path: Path) -> None:
    text = "task: gsm8k\nlimit: 7\nsettings: {method: {gamma: 30}, tuning: {length: 5, steps: 9}}\n"
    file = recipe_file(tmp_path, text)
    recipe = draft_recipe(file, {"limit": 3, "task": None}, ["tuning.length=4"]).recipe
    assert (recipe.task, recipe.limit) == ("gsm8k", 3)
    assert (recipe.settings.tuning.length, recipe.settings.tuning.steps, recipe.settings.method.gamma) == (4, 9, 30)
    # Of the embedded model's own defaults, those that the recipe does not name.
    assert recipe.settings.tuning.batch_size == 16
    assert draft_recipe(file, {"model": "other"}, []).recipe.settings.tuning.batch_size == 8


def test_no_recipe_is_the_demonstration() -> None:
    recipe = draft_recipe(None, {}, []).recipe
    assert (recipe.model, recipe.task, recipe.methods) == ("zoo", "zoo", ("pretrained", "prompt_tuning", "dpc"))
    assert recipe.settings.tuning.length == 20


def test_a_recipe_survives_the_way_through_yaml(tmp_path: Path) -> None:
    recipe = draft_recipe("mistral-7b-math", {}, []).recipe
    file = recipe_file(tmp_path, yaml.safe_dump(recipe.model_dump(mode="json")))
    assert draft_recipe(file, {}, []).recipe == recipe


WRONG = {
    "metods: [dpc]": "metods: there is no such setting; did you mean methods?",
    "methods: [dpc, dcp]": "no such method",
    "task: gsm9k": "unknown task 'gsm9k'",
    "dtype: float33": "dtype: ",
    "limit: 0": "limit: ",
    "seeds: many": "seeds: ",
    "settings: {tuning: {lenght: 9}}": "tuning.lenght: there is no such setting; did you mean length?",
    "settings: {method: {shallow_start: 0.9}}": "shallow_start 0.9 is above shallow_stop",
    "settings: {metod: {}}": "did you mean method?",
    "settings: 3": "settings: ",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_is_named_where_it_stands(text: str, tmp_path: Path) -> None:
    draft = draft_recipe(recipe_file(tmp_path, text), {}, [])
    assert [WRONG[text] in mistake for mistake in draft.mistakes] == [True]


def test_all_mistakes_of_all_kinds_are_shown_at_once_before_any_weight_is_loaded(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "task: gsm8k\nmethods: [dpc, dcp]\nmetods: []\nsettings: {method: {gamma: 200}, tuning: {init_question: No}}"
    command = ["run", recipe_file(tmp_path, text), "--output", str(tmp_path / "run"), "--dtype", "float33"]
    data = write_rows("gsm8k", tmp_path / "rows")
    (data / "test.jsonl").write_text((data / "train.jsonl").read_text() + '{"question": "?"}\n')
    command += ["--model", str(model), "--data", str(data), "--set", "decoding.slots=maybe", "--set", "gamma=1"]
    assert run_command(command) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    for named in ("dcp", "metods", "method.gamma", "init_question", "dtype", "decoding.slots", "'gamma=1'"):
        assert named in line
    assert "7 mistakes" in line
    assert not (tmp_path / "run").exists()


def test_what_does_not_depend_on_a_mistake_is_checked_all_the_same(model: Path, rows: Path, tmp_path: Path) -> None:
    options = {"model": str(model), "task": "gsm8k", "data": str(rows)}
    draft = draft_recipe(None, options, ["tuning.length=600", "method.gamma=200"])
    with pytest.raises(UserError, match=r"2 mistakes.*method\.gamma.*tuning\.length 600: the context"):
        prepare(draft, tmp_path)
    draft = draft_recipe(None, {**options, "data": str(tmp_path / "nowhere.jsonl")}, ["tuning.length=600"])
    with pytest.raises(UserError, match=r"nowhere\.jsonl.*the context"):
        prepare(draft, tmp_path)


def test_rows_and_questions_that_cannot_fit_are_found_without_weights(model: Path, tmp_path: Path) -> None:
    data = write_rows("gsm8k", tmp_path / "rows")
    with (data / "test.jsonl").open("a") as file:
        file.write('{"question": "%s", "answer": "#### 1"}\n' % ("long " * 110))
    options = {"model": str(model), "task": "gsm8k", "data": str(data)}
    with pytest.raises(UserError, match=r"gsm8k/test/4: \d+ tokens"):
        prepare(draft_recipe(None, options, ["tuning.length=4"]), tmp_path)
    assert prepare(draft_recipe(None, options | {"limit": 4}, ["tuning.length=4"]), tmp_path).splits.keys()
    with pytest.raises(UserError, match=r"training row 1: \d+ tokens"):
        prepare(draft_recipe(None, options | {"limit": 4}, ["tuning.length=4", "tuning.max_length=30"]), tmp_path)


def test_splits_that_share_rows_are_refused(model: Path, rows: Path, tmp_path: Path) -> None:
    options = {"model": str(model), "task": "gsm8k", "data": str(rows / "test.jsonl")}
    with pytest.raises(UserError, match="evaluate on other rows"):
        prepare(draft_recipe(None, options, ["tuning.length=4"]), tmp_path)


def test_the_bare_model_needs_test_rows_alone(model: Path, tmp_path: Path) -> None:
    data = write_rows("aqua", tmp_path / "rows")
    for split in ("train", "dev"):
        (data / f"{split}.jsonl").unlink()
    options = {"model": str(model), "task": "aqua", "data": str(data), "methods": ["pretrained"]}
    assert prepare(draft_recipe(None, options, []), tmp_path).splits.keys() == {"test"}


def test_the_example_to_start_from_is_found_by_the_beginning_of_its_question(
    model: Path, rows: Path, tmp_path: Path
) -> None:
    options = {"model": str(model), "task": "gsm8k", "data": str(rows)}
    prepared = prepare(draft_recipe("mistral-7b-gsm8k", options, []), tmp_path)
    text = init_text(prepared.splits["train"], prepared.splits["dev"], prepared.recipe.settings)
    assert text == "Question: Natalia sold clips to 48 of her friends.\nAnswer: 0 + 1\n#### 1"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("task: zoo\ntask: gsm8k\n", "'task' is there twice"),
        ("task: [zoo\n", "is not YAML"),
        ("- task\n", "expected names with values"),
        ("3: 4\n", "expected names with values"),
        ("task: \ud800\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="recipe") as caught:
        draft_recipe(str(tmp_path / "mine.yaml"), {}, [])
    assert named in str(caught.value)


def test_an_empty_file_is_a_recipe_of_defaults(tmp_path: Path) -> None:
    assert draft_recipe(recipe_file(tmp_path, "# nothing\n"), {}, []).recipe == draft_recipe(None, {}, []).recipe


def test_every_entry_says_what_it_is() -> None:
    assert all(field.description for name, field in Recipe.model_fields.items() if name != "settings")
    assert {recipe.rpartition("-")[2] for recipe in shipped_recipes()} <= set(TASKS)


def test_reading_recipes_loads_no_heavy_library() -> None:
    program = "import sys, dpc.run.recipes; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_example_in_the_documentation_is_a_recipe(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    draft = draft_recipe(recipe_file(tmp_path, example), {}, [])
    assert not draft.mistakes
    assert set(yaml.safe_load(example)) == set(Recipe.model_fields)
