"""The order of the rooms. A module imports only from its own room and from rooms above it; tests enforce it."""

from __future__ import annotations

# A room is a module or a package of ``dpc``. Where several names match a module, the longest is its room.
ROOMS = (
    "errors",
    "files",
    "hub",
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
    "api",
    "cli",
    "__main__",
)

# Rooms above that a room must not import either, so that it can be used and tested without them.
FORBIDDEN = {
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
    """The room of ``module``: ``methods`` for ``dpc.methods.act``; None where no room matches."""
    name = module.removeprefix("dpc.")
    matching = [room for room in ROOMS if name == room or name.startswith(f"{room}.")]
    return max(matching, key=len, default=None)
