"""The API reference shows an object in its own module only: an extension of Griffe, named in ``mkdocs.yml``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from griffe import Extension, Module


class OwnModuleOnly(Extension):
    """A package that names an object of its modules in ``__all__`` does not show it a second time."""

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Forget ``__all__`` of every module, so that imported names don't count as public."""
        for module in _modules(pkg):
            module.exports = None


def _modules(module: Module) -> Iterator[Module]:
    yield module
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _modules(inner)
