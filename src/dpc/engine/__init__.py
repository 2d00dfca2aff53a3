"""Greedy decoding: continuous batching with a shared prompt prefix and speculative decoding, or plain batches."""

from dpc.engine.decoder import Decoder
from dpc.engine.request import Decoded, Request, Trail, by_length, check_fits

__all__ = ["Decoded", "Decoder", "Request", "Trail", "by_length", "check_fits"]
