"""Automatic limits that a run reaches: what leaves through them, and how much of it is too much."""

from __future__ import annotations

import torch

from hpcme.exact.borders import Borders

#: Probability that may leave through automatic limits in a whole run.
LEAK_ALLOWED = 1e-6
#: How often a run begins again with larger limits. What still leaves then is what the network itself puts there.
MOST_GROWTHS = 4


class LimitsReached(Exception):
    """A run has lost more than LEAK_ALLOWED through automatic limits; raised on all ranks, with equal numbers.

    t: when it was seen; lost: probability by species; total: their sum.
    """

    def __init__(self, t: float, lost: dict[str, float]) -> None:
        super().__init__(f"limits reached at t = {t:g}: {lost}")
        self.t, self.lost, self.total = t, lost, sum(lost.values())


def border_rates(
    borders: Borders, n: torch.Tensor, leak: torch.Tensor, weights: torch.Tensor | None, t: float
) -> torch.Tensor:
    """Rates of leaving through each limit that may grow, summed over states n int32 [B, S] with weights [B] (None: 1);
    float64 [G], on the device of leak [B], the rate of leaving through any limit."""
    seen = leak > 0.0
    if not borders.names or not bool(seen.any()):
        return leak.new_zeros(len(borders.names))
    rates = borders.rates(n[seen].cpu().numpy(), leak[seen].cpu().numpy(), t)
    found = torch.from_numpy(rates).to(leak.device)
    return found.sum(dim=0) if weights is None else weights[seen] @ found
