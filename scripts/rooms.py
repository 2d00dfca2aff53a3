"""The order of the rooms: a module imports only from rooms above its own. Tests enforce it, the docs show it."""

from __future__ import annotations

# A room is a module of ``dpc`` or a package with all it holds; the longest name that fits a module is its room.
ROOMS = (
    "errors",
    "files",
    "types",
    "settings",
    "zoo.problems",
    "zoo.corpus",
    "tasks",
    "lm",
    "soft_prompt",
    "prefix",
    "corruption",
    "blocks",
    "implementation",
    "position_mask",
    "attention_call",
    "capture",
    "engine",
    "act_attention",
    "block_walk",
    "saliency",
    "local_influence",
    "flow",
    "flow_map",
    "trigger",
    "methods",
    "trace",
    "target_loss",
    "tuning_state",
    "tuning",
    "stats",
    "runs",
    "evaluate",
    "maps",
    "results",
    "compare",
    "export",
    "seeds",
    "report",
    "analysis",
    "pipeline",
    "act_search",
    "server",
    "zoo",
    "recipes",
    "preflight",
    "estimate",
    "plan",
    "bench",
    "cli",
    "__main__",
)

# Rooms above that a room must not know all the same.
STRANGERS = {
    "lm": ("tasks",),
    "soft_prompt": ("tasks",),
    "corruption": ("lm", "tasks"),
    "engine": ("tasks", "corruption"),
    "capture": ("tasks", "corruption"),
    "act_attention": ("tasks", "engine", "corruption"),
    "saliency": ("tasks", "engine", "corruption"),
    "flow": ("lm", "capture", "engine", "tasks"),
    "trigger": ("lm", "capture", "engine", "tasks", "corruption"),
    "methods": ("tasks",),
    "tuning": ("tasks", "engine", "trigger", "methods"),
    "stats": ("lm", "methods"),
    "report": ("lm", "engine", "tuning"),
    "analysis": ("engine", "tuning", "methods"),
    "server": ("lm", "tasks", "engine", "methods", "trace", "runs", "report"),
}


def room_of(module: str) -> str | None:
    """The room of ``module`` (``dpc.methods.act`` is in ``methods``), None for one that stands in no room."""
    name = module.removeprefix("dpc.")
    fitting = [room for room in ROOMS if name == room or name.startswith(f"{room}.")]
    return max(fitting, key=len, default=None)
