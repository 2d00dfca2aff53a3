"""Without a network what is cached is used, and the rest is one line, quickly; with one, the hub's answer counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from dpc.cli import run_command
from dpc.errors import UserError
from dpc.hub import Repository, _ask, check_repository, hub_or_cache, model_repository
from dpc.model.loading import load_lm
from dpc.tasks import get_task
from tests.loopback_hub import COMMIT, black_hole, cached_model, loopback_hub
from tests.model.checkpoints import save, tiny_model

Endpoint = Callable[[str], None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that may be asked."""
    _ask.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    def set_to(address: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return set_to


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_model(), tmp_path_factory.mktemp("checkpoint"))


def model(name: str, revision: str | None = None) -> Repository:
    found = model_repository(name, revision)
    assert found is not None
    return found


def error_of(repository: Repository) -> str:
    with pytest.raises(UserError) as caught, hub_or_cache(repository):
        raise ConnectionError("not cached")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone/model", "no such model on"),
        ("private/model", "if it is private, log in with `hf auth login`"),
        ("gated/model", "/gated/model, then log in with `hf auth login` or set HF_TOKEN"),
        ("forbidden/model", "refuses access (HTTP 403); log in"),
        ("broken/model", "answers with an error (HTTP 503); run `hf download broken/model`"),
        ("a/b/c", "a hub id is owner/name"),
    ],
)
def test_an_answer_of_the_hub_is_told_in_one_line(
    name: str, told: str, cache: Path, checkpoint: Path, endpoint: Endpoint
) -> None:
    with loopback_hub(checkpoint) as (address, asked):
        endpoint(address)
        message = error_of(model(name))
    assert message.startswith(f"--model {name}: ")
    assert told in message
    assert "\n" not in message
    assert len(asked) == (name != "a/b/c")


def test_a_missing_revision_is_named_and_one_that_is_there_is_not_looked_up_in_the_cache(
    cache: Path, checkpoint: Path, endpoint: Endpoint
) -> None:
    with loopback_hub(checkpoint) as (address, asked):
        endpoint(address)
        assert "no revision v9" in error_of(model("here/model", "v9"))
        assert check_repository(model("here/model")) is None
        with hub_or_cache(model("here/model")) as offline:
            assert not offline
            assert not constants.HF_HUB_OFFLINE
    assert len(asked) == 2  # The second answer is remembered.


def test_a_data_set_without_a_network_names_the_caches_and_what_to_pass(
    cache: Path, checkpoint: Path, endpoint: Endpoint
) -> None:
    endpoint("http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        get_task("gsm8k").load("test", None)
    message = str(caught.value)
    assert message.startswith(f"openai/gsm8k: is not in the cache {cache} or ")
    for told in ("127.0.0.1:9 can't be reached", "HF_HUB_OFFLINE", "--repo-type dataset", "--data: a directory with"):
        assert told in message
    with loopback_hub(checkpoint) as (address, _):
        endpoint(address)
        with pytest.raises(UserError, match="gone/rows: no such folder here, and no such data set on"):
            get_task("gsm8k").load("test", "gone/rows")


def test_a_cached_model_is_loaded_where_the_hub_never_answers(
    cache: Path, checkpoint: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc.hub.ANSWER_SECONDS", 0.3)
    snapshot = cached_model(checkpoint, cache)
    with black_hole() as address:
        endpoint(address)
        assert load_lm("here/model").revision == load_lm(str(checkpoint)).revision
        began = time.monotonic()
        message = error_of(model("no/such"))
        assert time.monotonic() - began < 3
    assert f"is not in the cache {cache}, and {address} does not answer within 0.3 s" in message
    assert not constants.HF_HUB_OFFLINE
    (snapshot / "model.safetensors").unlink()
    endpoint("http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"can't be loaded from the cache .*can't be reached.*hf download here/model"):
        load_lm("here/model")


def test_a_cached_model_that_the_hub_refuses_or_that_nobody_may_ask_for_is_loaded(
    cache: Path, checkpoint: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_model(checkpoint, cache, "gated/model")
    with loopback_hub(checkpoint) as (address, asked):
        endpoint(address)
        with hub_or_cache(model("gated/model")) as offline:
            assert offline
            assert constants.HF_HUB_OFFLINE
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        asked.clear()
        with hub_or_cache(model("gated/model")) as offline:
            assert offline
        assert "HF_HUB_OFFLINE is set" in error_of(model("here/model"))
    assert asked == []


def test_a_command_without_a_network_ends_in_one_line_before_torch_is_loaded(
    cache: Path, endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint("http://127.0.0.1:9")
    assert run_command(["trace", "--model", "no/such", "--prompt", str(tmp_path), "?"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --model no/such: is not in the cache {cache}, and http://127.0.0.1:9 can't be")


def test_paths_and_the_embedded_model_are_no_repositories(tmp_path: Path) -> None:
    for name in ("zoo", "./model", "~/model", "/model", "missing.gguf", str(tmp_path)):
        assert model_repository(name) is None
    packed = model("ada/models:sub/q4.GGUF", "v1")
    assert (packed.id, packed.file, packed.revision) == ("ada/models", "sub/q4.GGUF", "v1")


@pytest.mark.slow
def test_rows_that_hf_download_left_are_loaded_without_the_hub(
    cache: Path, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"{n}?", "answer": f"so\n#### {n}"} for n in range(10)]
    snapshot = cache / "datasets--openai--gsm8k" / "snapshots" / COMMIT
    (snapshot / "main").mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    files = []
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), snapshot / "main" / f"{split}.parquet")
        files.append(f"  - split: {split}\n    path: main/{split}.parquet\n")
    header = "---\nconfigs:\n- config_name: main\n  data_files:\n"
    (snapshot / "README.md").write_text(header + "".join(files) + "---\n")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    endpoint("http://127.0.0.1:9")
    assert [len(get_task("gsm8k").load(split, None)) for split in ("train", "dev", "test")] == [8, 2, 10]


LOAD = """
from dpc.model.loading import load_lm
print(load_lm("here/model").revision)
"""


@pytest.mark.slow
def test_a_model_is_downloaded_once_and_then_loaded_without_the_hub(checkpoint: Path, tmp_path: Path) -> None:
    def load(address: str) -> str:
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", LOAD]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert "Retrying" not in done.stderr
        return done.stdout

    with loopback_hub(checkpoint) as (address, asked):
        first = load(address)
        assert any(path.endswith("model.safetensors") for path in asked)
    assert load("http://127.0.0.1:9") == first
