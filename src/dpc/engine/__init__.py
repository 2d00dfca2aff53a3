"""Greedy decoding of many instances: plain batches, or slots with a shared prompt prefix and drafts."""

from dpc.engine.decoder import Decoder
from dpc.engine.request import Decoded, Request, Trail, by_length, check_fits

__all__ = ["Decoded", "Decoder", "Request", "Trail", "by_length", "check_fits"]
