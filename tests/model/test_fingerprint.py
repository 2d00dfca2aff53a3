"""The fingerprint of weights: every value counts, and neither type nor files matter. Changed files are noticed."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from dpc.errors import UserError
from dpc.model import fingerprint as module
from dpc.model.fingerprint import FileStamp, checkpoint_fingerprint, tensor_sha256, weights_fingerprint
from dpc.model.loading import load_lm
from dpc.model.wrap import wrap_model
from tests.model.checkpoints import LAYOUTS, edit_json, save, tiny_model, write_weights
from tests.tiny_models import ARCHITECTURES, byte_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tiny_model(), tmp_path / "model")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for caches, and digests cached from files of any size and age."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "CACHED_FROM_BYTES", 0)
    monkeypatch.setattr(module, "SETTLED_SECONDS", -10.0)
    return tmp_path / "cache" / "dpc" / "weights"


def flip_a_bit(path: Path) -> None:
    """Change the last byte of a safetensors file, which belongs to its last tensor."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_tensor_is_hashed_with_type_and_shape_as_little_endian_numbers() -> None:
    values = [1.0, -2.5, 0.0, 3e-30]
    expected = hashlib.sha256(b"torch.float32 [2, 2]\n" + struct.pack("<4f", *values)).hexdigest()
    assert tensor_sha256(torch.tensor(values).view(2, 2)) == expected
    assert tensor_sha256(torch.tensor(values).view(2, 2).double()) == expected
    assert tensor_sha256(torch.tensor(values).view(2, 2).T) != expected
    integers = hashlib.sha256(b"torch.int64 [2]\n" + struct.pack("<2q", 5, -1)).hexdigest()
    assert tensor_sha256(torch.tensor([5, -1])) == integers
    assert tensor_sha256(torch.tensor(True)) != tensor_sha256(torch.tensor(False))


def test_a_value_that_only_float64_holds_counts_with_all_its_digits() -> None:
    values = torch.tensor([0.1], dtype=torch.float64)
    assert tensor_sha256(values) != tensor_sha256(values.float())
    assert tensor_sha256(values) != tensor_sha256(values + 1e-17)


def test_a_tensor_longer_than_a_chunk_has_the_same_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    whole = tensor_sha256(tensor)
    monkeypatch.setattr(module, "_CHUNK_VALUES", 3)
    assert tensor_sha256(tensor) == whole


def test_every_single_value_of_a_model_counts() -> None:
    model = tiny_model(layers=1)
    before = weights_fingerprint(model)
    for parameter in model.parameters():
        with torch.no_grad():
            last = parameter.view(-1)[-1:]
            kept = last.clone()
            last.copy_(torch.nextafter(kept, torch.tensor(9.0)))
            assert weights_fingerprint(model) != before
            last.copy_(kept)
    assert weights_fingerprint(model) == before


def test_persistent_buffers_count_and_others_do_not() -> None:
    model = tiny_model()
    before = weights_fingerprint(model)
    model.register_buffer("scratch", torch.zeros(3), persistent=False)
    assert weights_fingerprint(model) == before
    model.register_buffer("kept", torch.zeros(3))
    with_zeros = weights_fingerprint(model)
    model.kept += 1
    assert len({before, with_zeros, weights_fingerprint(model)}) == 3


def test_two_weights_that_are_swapped_count() -> None:
    model = tiny_model()
    before = weights_fingerprint(model)
    first, second = (layer.self_attn.q_proj.weight for layer in model.model.layers)
    first.data, second.data = second.data.clone(), first.data.clone()
    assert weights_fingerprint(model) != before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_byte_of_a_checkpoint_counts_in_every_layout(layout: str, folder: Path) -> None:
    state = {name: value.clone() for name, value in tiny_model().state_dict().items()}
    write_weights(folder, state, layout)
    before = load_lm(str(folder)).revision
    name = "model.layers.1.mlp.down_proj.weight"
    state[name].view(torch.int32)[-1, -1] ^= 1
    write_weights(folder, state, layout)
    assert load_lm(str(folder)).revision != before


def test_all_values_after_the_first_64_of_each_tensor_count(folder: Path) -> None:
    before = load_lm(str(folder)).revision
    state = {name: value.clone() for name, value in tiny_model().state_dict().items()}
    for value in state.values():
        value.view(-1)[64:] *= 0.5
    write_weights(folder, state)
    assert load_lm(str(folder)).revision != before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_weights_in_other_files_have_the_same_fingerprint(layout: str, folder: Path) -> None:
    model = tiny_model()
    write_weights(folder, model.state_dict(), layout)
    assert load_lm(str(folder)).revision == weights_fingerprint(model)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_has_one_fingerprint_whatever_type_it_is_loaded_in(stored: torch.dtype, tmp_path: Path) -> None:
    folder = save(tiny_model().to(stored), tmp_path)
    types = ("auto", "float32", "float64", "bfloat16", "float16")
    assert len({load_lm(str(folder), dtype=name).revision for name in types}) == 1


def test_a_checkpoint_of_several_types_has_one_fingerprint(folder: Path) -> None:
    state = tiny_model().state_dict()
    mixed = {name: value if "norm" in name else value.bfloat16() for name, value in state.items()}
    mixed["model.norm.weight"] = mixed["model.norm.weight"] + 1e-4
    write_weights(folder, mixed)
    assert load_lm(str(folder), dtype="bfloat16").revision == load_lm(str(folder), dtype="float32").revision


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_loaded_model_and_the_same_model_in_memory_have_one_fingerprint(
    architecture: str, tied: bool, tmp_path: Path
) -> None:
    folder = save(tiny_model(architecture, tie_word_embeddings=tied), tmp_path)
    own = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    assert wrap_model(own, byte_tokenizer()).revision == load_lm(str(folder)).revision


def test_a_checkpoint_without_the_prefix_of_its_base_model_has_the_fingerprint_of_its_model(tmp_path: Path) -> None:
    model = tiny_model("gpt2", tie_word_embeddings=True)
    folder = save(model, tmp_path)
    state = {name.removeprefix("transformer."): value for name, value in model.state_dict().items()}
    write_weights(folder, {name: value for name, value in state.items() if name != "lm_head.weight"})
    assert load_lm(str(folder)).revision == weights_fingerprint(model)


@pytest.mark.parametrize("held", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_tied_weights_count_once_whichever_of_them_the_file_holds(held: list[str], tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=True)
    folder = save(model, tmp_path)
    tied = {"embed_tokens": "model.embed_tokens.weight", "lm_head": "lm_head.weight"}
    left_out = {name for key, name in tied.items() if key not in held}
    write_weights(folder, {name: value for name, value in model.state_dict().items() if name not in left_out})
    assert load_lm(str(folder)).revision == weights_fingerprint(model)


def test_experts_that_transformers_merges_on_loading_have_one_fingerprint_too(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MixtralConfig(vocab_size=258, num_hidden_layers=2, num_local_experts=3, eos_token_id=0, **sizes)
    model = MixtralForCausalLM(config)
    folder = save(model, tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "model.layers.0.block_sparse_moe.experts.2.w1.weight" in set(file.keys())
    own = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    assert len({weights_fingerprint(model), weights_fingerprint(own), load_lm(str(folder)).revision}) == 1


def test_a_checkpoint_with_names_of_its_own_counts_as_the_file_has_it(tmp_path: Path) -> None:
    model = tiny_model()
    path = save(model, tmp_path) / "model.safetensors"
    state = {f"other.{name}": value for name, value in model.state_dict().items()}
    write_weights(tmp_path, state)
    before = checkpoint_fingerprint(model, [path])[0]
    assert before != weights_fingerprint(model)
    flip_a_bit(path)
    assert checkpoint_fingerprint(model, [path])[0] != before


def test_digests_of_an_unchanged_file_come_from_the_cache(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_lm(str(folder)).revision
    [entry] = cache.iterdir()
    assert json.loads(entry.read_text())["file"]["path"] == str(folder / "model.safetensors")
    monkeypatch.setattr(module, "tensor_sha256", lambda _: pytest.fail("hashed again"))
    assert load_lm(str(folder)).revision == first


def test_a_file_changed_behind_its_size_and_time_is_hashed_again(folder: Path, cache: Path) -> None:
    path = folder / "model.safetensors"
    before, status = load_lm(str(folder)).revision, path.stat()
    flip_a_bit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert load_lm(str(folder)).revision != before


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "file": {}, "tensors": 3}'])
def test_a_damaged_cache_is_ignored(content: str, folder: Path, cache: Path) -> None:
    before = load_lm(str(folder)).revision
    [entry] = cache.iterdir()
    entry.write_text(content)
    assert load_lm(str(folder)).revision == before


def test_a_cache_entry_of_another_file_is_ignored(folder: Path, cache: Path) -> None:
    before = load_lm(str(folder)).revision
    [entry] = cache.iterdir()
    changed = json.loads(entry.read_text())
    changed["file"]["mtime_ns"] += 1
    changed["tensors"] = dict.fromkeys(changed["tensors"], "0" * 64)
    entry.write_text(json.dumps(changed))
    assert load_lm(str(folder)).revision == before


def test_a_cache_that_cannot_be_written_is_no_error(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_lm(str(folder)).revision
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "file")
    assert load_lm(str(folder)).revision
    assert not Path("relative").exists()


def test_small_and_freshly_written_files_are_not_cached(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_SECONDS", 60.0)
    load_lm(str(folder))
    monkeypatch.setattr(module, "SETTLED_SECONDS", -10.0)
    monkeypatch.setattr(module, "CACHED_FROM_BYTES", 2**25)
    load_lm(str(folder))
    assert not cache.exists()


def test_files_that_did_not_change_are_verified_without_reading_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_lm(str(folder))
    assert [Path(stamp.path) for stamp in lm.weight_files] == [folder / "model.safetensors"]
    monkeypatch.setattr(module, "tensor_sha256", lambda _: pytest.fail("hashed again"))
    lm.verify_unchanged()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_changed_after_loading_is_refused_by_name(layout: str, folder: Path) -> None:
    state = {name: value.clone() for name, value in tiny_model().state_dict().items()}
    write_weights(folder, state, layout)
    lm = load_lm(str(folder))
    state["lm_head.weight"] *= 0.5
    write_weights(folder, state, layout)
    with pytest.raises(
        UserError, match=r"'.*model.*' changed after the model was loaded.*; restore the file, or start"
    ):
        lm.verify_unchanged()
    write_weights(folder, tiny_model().state_dict(), layout)
    lm.verify_unchanged()


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_a_file_that_is_gone_or_damaged_after_loading_is_refused(
    content: bytes | None, layout: str, folder: Path
) -> None:
    write_weights(folder, tiny_model().state_dict(), layout)
    lm = load_lm(str(folder), dtype="float64")  # A copy: the memory of the model is not the file's.
    path = Path(lm.weight_files[0].path)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="changed after the model was loaded"):
        lm.verify_unchanged()


def test_a_file_that_was_only_touched_is_verified_by_its_bytes(folder: Path) -> None:
    lm = load_lm(str(folder))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    lm.verify_unchanged()


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "model.safetensors"
    read = module._file_digests

    def read_and_touch(stamp: FileStamp) -> dict[str, str]:
        digests = read(stamp)
        os.utime(path)
        return digests

    monkeypatch.setattr(module, "_file_digests", read_and_touch)
    with pytest.raises(UserError, match=r"model\.safetensors' changed while it was read"):
        load_lm(str(folder))


def test_weights_that_change_while_they_are_loaded_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = AutoModelForCausalLM.from_pretrained

    def load_and_change(*args: object, **kwargs: object) -> object:
        loaded = load(*args, **kwargs)
        os.utime(folder / "model.safetensors")
        return loaded

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_and_change)
    with pytest.raises(UserError, match="its weights changed while they were loaded"):
        load_lm(str(folder))


@pytest.mark.parametrize("layout", ["safetensors", "safetensors shards"])
def test_a_snapshot_in_the_hub_cache_is_fingerprinted_by_its_files(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--someone--tiny", "0123456789abcdef0123456789abcdef01234567"
    folder = save(tiny_model(), repository / "snapshots" / commit)
    write_weights(folder, tiny_model().state_dict(), layout)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    lm = load_lm("someone/tiny")
    assert lm.revision == weights_fingerprint(tiny_model())
    assert {Path(stamp.path).parent for stamp in lm.weight_files} == {folder}
    assert len(lm.weight_files) == (2 if "shards" in layout else 1)


def test_explicitly_named_weights_are_the_ones_that_count(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    edit_json(folder / "config.json", transformers_weights="other.safetensors")
    lm = load_lm(str(folder))
    assert [Path(stamp.path).name for stamp in lm.weight_files] == ["other.safetensors"]


def test_a_model_in_memory_is_hashed_each_time_it_is_wrapped() -> None:
    model: PreTrainedModel = tiny_model()
    first = wrap_model(model, byte_tokenizer())
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.view(-1)[-1] += 1
    assert wrap_model(model, byte_tokenizer()).revision != first.revision
    assert first.weight_files == ()
    first.verify_unchanged()
