"""Greedy decoding: continuous batching with a shared prompt prefix and speculative decoding, or plain batches."""

from dpc.engine.beam import Beam, Samples
from dpc.engine.decoder import Decoder
from dpc.engine.groups import Candidates
from dpc.engine.request import Decoded, Likelihood, Request, Trail, by_length, check_fits

__all__ = [
    "Beam",
    "Candidates",
    "Decoded",
    "Decoder",
    "Likelihood",
    "Request",
    "Samples",
    "Trail",
    "by_length",
    "check_fits",
]
