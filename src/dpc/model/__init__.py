"""The frozen language model and its attention: the one package that knows transformers' internals."""
