"""DPC, its ablations and its controls: one loop of two passes, with another trigger or another corruption."""

from __future__ import annotations

from dpc.methods.corruptions import FIRST_TOKEN, KEY_TOKEN, LEAST_TOKEN, RANDOM_TOKEN, mask_token
from dpc.methods.method import Method
from dpc.methods.triggers import ALWAYS_TRIGGER, ENTROPY, FLOW, LIKELIHOOD, RANDOM_TRIGGER

PRUNE_ALONE = mask_token("largest S_acc, not masked", mask_key=False)
MASK_ALONE = mask_token("largest S_acc, others not pruned", gamma=0.0, mask_key=True)

DPC = Method("dpc", "the paper's method (section 3): flow trigger, key token masked, others pruned", FLOW, KEY_TOKEN)
RANDOM_CORRUPTION = Method(
    "random_corruption", "ablation (section 4.3): the virtual token is drawn at random", FLOW, RANDOM_TOKEN
)
ALL_CORRUPTION = Method(
    "all_corruption", "ablation (section 4.3): every answer is replaced, without a trigger", ALWAYS_TRIGGER, KEY_TOKEN
)
FIRST_TOKEN_CORRUPTION = Method(
    "first_token_corruption", "control: virtual token 0, where models keep an attention sink", FLOW, FIRST_TOKEN
)
LEAST_TOKEN_CORRUPTION = Method(
    "least_token_corruption", "control: the virtual token that gathers the least information", FLOW, LEAST_TOKEN
)
GAMMA_ONLY = Method("gamma_only", "control: the other vectors are pruned, the key token is kept", FLOW, PRUNE_ALONE)
KEY_ONLY = Method("key_only", "control: the key token is masked, the other vectors are kept", FLOW, MASK_ALONE)
RANDOM_TRIGGERED = Method(
    "random_trigger", "control: triggers at random, as often as the calibrated DPC", RANDOM_TRIGGER, KEY_TOKEN
)
DPC_BY_ENTROPY = Method(
    "dpc_entropy", "dpc, triggered where the model's mean entropy is high instead of by its flow", ENTROPY, KEY_TOKEN
)
DPC_BY_LIKELIHOOD = Method(
    "dpc_likelihood",
    "dpc, triggered where the mean log-likelihood is low instead of by its flow",
    LIKELIHOOD,
    KEY_TOKEN,
)
