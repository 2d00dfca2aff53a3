"""The order of the rooms: a module imports only from rooms above its own. Tests enforce it, the docs show it."""

from __future__ import annotations

# A room is a module of ``dpc`` or a package with all it holds; the longest name that fits a module is its room.
ROOMS = (
    "errors",
    "files",
    "types",
    "settings",
    "zoo",
    "tasks",
    "model",
    "prompt",
    "engine",
    "flow",
    "methods",
    "stats",
    "records",
    "report",
    "analysis",
    "run",
    "cli",
    "__main__",
)

# Rooms above that a room must not know all the same.
STRANGERS = {
    "model": ("tasks",),
    "prompt": ("tasks",),
    "engine": ("tasks",),
    "flow": ("tasks",),
    "methods": ("tasks",),
    "stats": ("model", "prompt", "engine", "flow", "methods"),
    "report": ("model", "engine"),
    "analysis": ("engine", "methods"),
}


def room_of(module: str) -> str | None:
    """The room of ``module`` (``dpc.methods.act`` is in ``methods``), None for one that stands in no room."""
    name = module.removeprefix("dpc.")
    fitting = [room for room in ROOMS if name == room or name.startswith(f"{room}.")]
    return max(fitting, key=len, default=None)
