"""A fingerprint of weights in which every value counts: of a model in memory, or of the files of a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from dpc.errors import UserError
from dpc.files import write_json
from dpc.model.gguf_file import SUFFIX, read_gguf

# Hashing a smaller file takes a few hundredths of a second, so its digests are not cached.
CACHED_FROM_BYTES = 2**25
# A file that changed this recently could change again without another time stamp, so its digests are not cached.
SETTLED_SECONDS = 2.0
_FORMAT = 1
_CHUNK_VALUES, _THREADS = 2**22, 4
_SCALES = re.compile(r"\.weight\.(absmax|quant_map|nested_\w+|quant_state\.bitsandbytes__\w+)$")
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file's path (absolute), size in bytes, and times of its last change in nanoseconds."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """The stamp of the file as it is now. Raises ``OSError`` if it is missing."""
        status = path.stat()
        # The change time too: unlike the modification time, a program cannot set it back.
        return cls(str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_current(self) -> bool:
        """Whether the file still has this stamp."""
        try:
            return FileStamp.of(Path(self.path)) == self
        except OSError:
            return False


def weights_fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of all parameters and persistent buffers: their names, shapes and values. Tied weights count once.

    Names and tensors are those that ``save_pretrained`` would write. 16-bit and float32 values count as float32,
    float64 values as float32 if nothing is lost. So a model has the same fingerprint in every floating-point type that
    holds its values exactly. Layers that PEFT put into the model do not count (``LayerAdapter`` describes them).
    """
    return _combine(_digests(_as_saved(model, _state(model)).items()))


def checkpoint_fingerprint(model: PreTrainedModel, paths: Sequence[Path]) -> tuple[str, tuple[FileStamp, ...]]:
    """The ``weights_fingerprint`` of a checkpoint, read from its files, and the stamps of these files.

    It does not depend on the type that ``model`` was loaded in, nor on how the weights are split into files. Weights
    that the model ignores do not count. If weights that ``save_pretrained`` would write are not in the files under
    these names (with or without the prefix of the base model), all tensors in the files count under their own names.

    paths: safetensors files, state dicts that torch saved, or a GGUF file, of which the stored bytes count: its
    fingerprint is not that of the same weights in another format. Digests of large files are cached by path, size and
    time.
    Raises ``UserError`` if a file changes while it is read.
    """
    stamps = tuple(FileStamp.of(path) for path in paths)
    digests = {name: digest for stamp in stamps for name, digest in _file_digests(stamp).items()}
    for stamp in stamps:
        if not stamp.is_current():
            raise UserError(f"'{stamp.path}' changed while it was read; wait until it is written, then start again")
    return _combine(_named_as_saved(model, digests)), stamps


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names; of values and types as in ``weights_fingerprint``."""
    return _combine(_digests(tensors.items()))


def file_fingerprint(path: Path) -> str:
    """The ``tensors_fingerprint`` of what a file holds: safetensors, or a state dict that torch saved."""
    return _combine(_file_digests(FileStamp.of(path)))


def _state(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters, each under its first name, and persistent buffers; as they are without layers of PEFT."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: value for name, value in model.state_dict().items() if name not in parameters}
    wrappers = [f"{name}." for name, module in model.named_modules() if hasattr(module, "adapter_layer_names")]
    wrappers.sort(key=len, reverse=True)
    found = {_without_wrappers(name, wrappers): value for name, value in (*model.named_parameters(), *buffers.items())}
    return {name: value for name, value in found.items() if name is not None}


# What PEFT calls the module of the model inside a module of its own.
_WRAPPED = ("base_layer.", "original_module.", "token_adapter.base_layer.")


def _without_wrappers(name: str, wrappers: Sequence[str]) -> str | None:
    """The name of a tensor in a model without PEFT's modules ``wrappers``, innermost first; None for one of theirs."""
    for wrapper in wrappers:
        if name.startswith(wrapper):
            inner = next((each for each in _WRAPPED if name.startswith(each, len(wrapper))), None)
            if inner is None:
                return None
            name = wrapper + name[len(wrapper) + len(inner) :]
    return name


def _as_saved(model: PreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under its names on disk: some architectures rename weights on loading, or merge those of experts."""
    try:
        return dict(revert_weight_conversion(model, state))
    except Exception:  # Some conversions of quantized weights have no inverse, and raise errors of various types.
        return state


def _named_as_saved(model: PreTrainedModel, digests: Mapping[str, str]) -> Mapping[str, str]:
    """Digests of a checkpoint under the names of ``_as_saved``, if all of them are found; otherwise as they are."""
    empty = {name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in _state(model).items()}
    names = _as_saved(model, empty).keys()
    for prefix in ("", f"{model.base_model_prefix}."):
        found = {prefix + name: digest for name, digest in digests.items()}
        # A checkpoint may hold either of two tied weights, or both.
        for one, other in model.all_tied_weights_keys.items():
            for source, target in ((one, other), (other, one)):
                if source in found:
                    found.setdefault(target, found[source])
        # Where a checkpoint is quantized on loading, only the model has the scales of its 4-bit weights.
        scales = {name for name in names if _SCALES.search(name)}
        if names - scales <= found.keys():
            return {name: found[name] for name in names if name in found}
    return digests


def _combine(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def _digests(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    # hashlib and torch release the interpreter lock, so threads hash several tensors at once.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return dict(pool.map(lambda named: (named[0], tensor_sha256(named[1])), tensors))


def tensor_sha256(tensor: Shaped[Tensor, "..."]) -> str:
    """SHA-256 of a line with type and shape, and of the values, row by row, in the type that the line names."""
    values = tensor.detach().flatten()
    if tensor.dtype not in _REAL:
        values, name = values.view(torch.uint8), str(tensor.dtype)
    elif tensor.dtype == torch.float64 and not torch.equal(values.float().double(), values):
        name = "torch.float64"
    else:
        name = "torch.float32"
    digest = hashlib.sha256(f"{name} {list(tensor.shape)}\n".encode())
    kind = {"torch.float32": torch.float32, "torch.float64": torch.float64}.get(name, torch.uint8)
    # In chunks, so that little memory is needed beside the weights.
    for chunk in values.split(_CHUNK_VALUES):
        digest.update(chunk.to("cpu", kind).numpy())
    return digest.hexdigest()


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    if path.suffix.lower() == SUFFIX:
        yield from read_gguf(path.name, path).raw()
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in list(file.keys()):
                yield name, file.get_tensor(name)
    else:
        # Files of old torch versions are no archives, and only archives can be mapped into memory.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        yield from ((name, value) for name, value in state.items() if isinstance(value, Tensor))


def _file_digests(stamp: FileStamp) -> dict[str, str]:
    entry = _cache_entry(stamp)
    found = _read_cache(entry, stamp)
    if found is not None:
        return found
    digests = _digests(_tensors(Path(stamp.path)))
    settled = time.time() - max(stamp.mtime_ns, stamp.ctime_ns) / 1e9 > SETTLED_SECONDS
    if entry is not None and settled:
        with suppress(UserError):  # A cache that cannot be written is no reason to stop.
            write_json(entry, {"format": _FORMAT, "file": asdict(stamp), "tensors": digests})
    return digests


def _cache_entry(stamp: FileStamp) -> Path | None:
    """Where the digests of a file are cached; None for a small file, or where the user has no folder for caches."""
    if stamp.size < CACHED_FROM_BYTES:
        return None
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The standard says that a relative path counts as unset.
        cache = Path(folder) if Path(folder).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "dpc" / "weights" / f"{hashlib.sha256(stamp.path.encode()).hexdigest()[:32]}.json"


def _read_cache(entry: Path | None, stamp: FileStamp) -> dict[str, str] | None:
    """Cached digests, if they are of the file as it is now."""
    if entry is None:
        return None
    try:
        value: Any = json.loads(entry.read_bytes())
        if value["format"] == _FORMAT and value["file"] == asdict(stamp):
            return {str(name): str(digest) for name, digest in value["tensors"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None
