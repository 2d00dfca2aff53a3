"""An update of tuning is that of torch's own optimizer."""

from __future__ import annotations

import torch

from dpc.prompt.tuning_state import TuningState, adamw


def test_adamw_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 5, generator=generator)
    state = TuningState(0, start, torch.zeros_like(start), torch.zeros_like(start))
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([parameter], weight_decay=0.1)
    for step in range(6):
        rate, gradient = 0.01 * (step + 1), torch.randn(4, 5, generator=generator)
        state = adamw(state, gradient, rate, weight_decay=0.1)
        optimizer.param_groups[0]["lr"], parameter.grad = rate, gradient
        optimizer.step()
        torch.testing.assert_close(state.vectors, parameter.detach(), rtol=1e-6, atol=1e-7)
