"""A recipe from its first check to its page: one run, or one for each of several tuning seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dpc.analysis.analyze import analyze_run
from dpc.analysis.folder import Folder
from dpc.errors import UserError
from dpc.model.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import PROVENANCE_FILE
from dpc.records.directory import RecordFile, RunDirectory, file_sha256
from dpc.records.results import Results
from dpc.records.seeds import SeedsResult, summarize_seeds, write_seeds
from dpc.report import write_page
from dpc.run.act_search import ACT, search_heads
from dpc.run.inputs import calibration_inputs, recorded, tuning_inputs
from dpc.run.preflight import Prepared, prepare
from dpc.run.recipes import Draft
from dpc.run.reporter import SILENT, Progress, Reporter
from dpc.run.setup import calibration_file, calibration_stage, load_prompt, load_setup
from dpc.run.stages import calibrate_method, evaluate_methods, tune_prompt
from dpc.run.standing import look_at
from dpc.settings import Settings

SEEDS_FILE = "seeds.json"


class RecipeRun:
    """A recipe without known mistakes, ready to be run into a folder.

    command: what the user typed, for ``run.json``. report: shows progress. seeds: what ``seeds.json`` holds, once
    several seeds are done.
    Raises ``UserError`` before any weight is loaded: with all mistakes, or where ``output`` was begun otherwise.
    """

    def __init__(
        self,
        draft: Draft,
        output: Path,
        *,
        command: str = "",
        report: Reporter = SILENT,
        trust_remote_code: bool = False,
    ) -> None:
        self.prepared: Prepared = prepare(draft, output, trust_remote_code)
        self.seeds: SeedsResult | None = None
        self.recipe, self.output = self.prepared.recipe, output
        self.directories = self.recipe.directories(output)
        self._name, self._command, self._report = draft.name.removeprefix("recipe "), command, report
        for seed, path in self.directories.items():
            look_at(RunDirectory(path), self.prepared, self.recipe.settings_of(seed))

    def run(self, lm: FrozenLM) -> dict[int, Results]:
        """Do everything that is not done yet; returns the results of each seed, and writes ``seeds.json`` for several.

        lm: the recipe's model, loaded.
        """
        results = {}
        for note in self.prepared.notes:
            self._report.say(f"note: {note}")
        for seed, path in self.directories.items():
            if self.recipe.seeds > 1:
                self._report.say(f"seed {seed}: {path}")
            run = RunDirectory(path, self._command)
            with run.lock():
                one = _OneSeed(self.prepared, self.recipe.settings_of(seed), run, lm, self._report)
                results[seed] = one.run(self._name)
        if self.recipe.seeds > 1:
            self.seeds = summarize_seeds(results)
            write_seeds(self.output / SEEDS_FILE, self.seeds)
        return results


class _OneSeed:
    """The stages of one run directory, in order; a stage that is done is skipped."""

    def __init__(
        self, prepared: Prepared, settings: Settings, run: RunDirectory, lm: FrozenLM, report: Reporter
    ) -> None:
        self._recipe, self._splits, self._settings = prepared.recipe, prepared.splits, settings
        self._run, self._report, self._now, self._shots = run, report, 0, prepared.shots
        self._lm = replace(lm, asking=prepared.outline.asking)
        recipe = prepared.recipe
        self._total = 1 + recipe.tunes + len(recipe.calibrates) + recipe.searches_heads + recipe.draws_figures

    def run(self, name: str) -> Results:
        recipe, run = self._recipe, self._run
        config = recipe.model_dump(mode="json") | {"settings": self._settings.model_dump(mode="json"), "seeds": 1}
        commit = getattr(self._lm.model.config, "_commit_hash", None)
        run.describe(recipe=name or None, config=config, model_commit=commit)
        if recipe.tunes:
            self._tune()
        self._calibrate()
        if recipe.searches_heads:
            self._search_heads()
        self._say(f"answer the {self._splits['test'].split} split")
        prompt = run.prompt if recipe.tunes else None
        methods, data = recipe.chosen, self._splits["test"]
        setup = load_setup(self._lm, prompt, methods, self._settings, task=data.task.name, shots=self._shots)
        results = evaluate_methods(self._lm, setup, data, methods, self._settings, run, self._report)
        if recipe.draws_figures:
            self._analyze()
        write_page(run.path, results)
        return results

    def _say(self, text: str) -> None:
        self._now += 1
        self._report.say(f"{self._now}/{self._total} {text}")

    def _tune(self) -> None:
        run, train, dev = self._run, self._splits["train"], self._splits["dev"]
        made_from = tuning_inputs(self._lm, train, dev, self._settings)
        run.enter("tune", made_from, recorded=recorded(self._settings))
        if run.is_done("tune"):
            self._say("tune a soft prompt: done before")
            return
        self._say(f"tune a soft prompt of {self._settings.tuning.length} virtual tokens into {run.prompt}")
        tune_prompt(self._lm, train, dev, self._settings, run.prompt, resume=True, report=self._report)
        run.finish("tune", [run.prompt / name for name in (CONFIG_FILE, WEIGHTS_FILE, PROVENANCE_FILE)])

    def _calibrate(self) -> None:
        run, dev = self._run, self._splits.get("dev")
        for method in self._recipe.calibrates:
            assert dev is not None
            prompt = load_prompt(self._lm, run.prompt, [method])
            assert prompt is not None
            trigger = method.calibrated or ""
            what = "the trigger's threshold" if trigger == "flow" else f"the threshold of {trigger}"
            made_from: dict[str, Any] = calibration_inputs(self._lm, prompt.sha256, dev, self._settings, method)
            stage = calibration_stage(trigger)
            run.enter(stage, made_from, recorded=recorded(self._settings))
            if run.is_done(stage):
                self._say(f"choose {what}: done before")
                continue
            self._say(f"choose {what} on the dev split")
            calibrate_method(self._lm, prompt, run.prompt, dev, self._settings, run, method, self._report)
            run.finish(stage, [run.prompt / calibration_file(trigger)])

    def _search_heads(self) -> None:
        run = self._run
        if run.is_done("act"):
            self._say("search the heads that ACT calibrates: done before")
            return
        self._say("search the heads that ACT calibrates on the dev split")
        prompt = load_prompt(self._lm, run.prompt, self._recipe.chosen)
        assert prompt is not None
        search_heads(self._lm, prompt, run.prompt, self._splits["dev"], self._settings, run, self._report)
        run.finish("act", [run.prompt / ACT])

    def _analyze(self) -> None:
        run = self._run
        made = Folder(run.path / "analysis").description
        run.restart("analyze", {"records": file_sha256(run.records("dpc").path)}, RecordFile(made))
        if run.is_done("analyze"):
            self._say("draw the paper's figures: done before")
            return
        self._say(f"draw the paper's figures into {made.parent}")

        def show(done: int, total: int) -> None:
            self._report.progress(Progress("analyze", done, total, "instances measured"))

        try:
            analyze_run(run, lambda *_: self._lm, task=self._recipe.task, progress=show)
        except UserError as error:
            self._report.say(f"note: no figures: {error}")
            return
        run.finish("analyze", [made])
