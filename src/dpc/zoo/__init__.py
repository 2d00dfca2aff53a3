"""The embedded default: a benchmark, a small trained model, and the recipe that made both."""

from importlib.resources import files
from pathlib import Path


def model_folder() -> Path:
    """The folder of the embedded model, in Hugging Face format: transformers and PEFT load it from there."""
    return Path(str(files("dpc.zoo").joinpath("model")))


# A prompt for this model: chosen on its dev split. Steps are few, because a demonstration is over in minutes.
SETTINGS = {
    "tuning": {"length": 20, "learning_rate": 0.03, "steps": 400, "batch_size": 16, "evaluate_every": 100},
}
