"""The frozen language model: its checkpoint and its attention, built on the internals of transformers."""
