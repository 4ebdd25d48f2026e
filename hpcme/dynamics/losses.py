"""Losses of the projection and their policy gradients.

All gradients have the form E_r[ c(n) grad log q'(n) ] with samples n from a law r that covers q' and the target T; a
loss is the coefficient c. Written with d = log q' - log T and w = q'/r:

  kl         KL(q' || T), by the log-variance form (Richter, Boustati, Nuesken, Ruiz, Akyildiz 2020):
             c = d - mean_r(d). At r = q' it is the policy gradient of the KL divergence with the mean as baseline;
             for any other covering r it is the gradient of Var_r(d)/2, with the same minimum and no weights.
  l2         sum_n (q' - T)^2 / 2, in units of the largest q_t sampled:  c = w (q' - T - b)
  hellinger  1 - sum_n sqrt(q' T):                                 c = -w (sqrt(T/q') - b) / 2

Baselines b are means over the samples (self-normalised by w); since E_q'[grad log q'] = 0 they change no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def kl(logq: torch.Tensor, log_target: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor):
    """(values to average, what the mean is subtracted from) for KL(q' || T)."""
    d = logq - log_target
    return d, torch.ones_like(weight)


def l2(logq: torch.Tensor, log_target: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor):
    """L2 distance of the laws; scale = log of the largest target keeps the numbers near one."""
    return torch.exp(logq - scale) - torch.exp(log_target - scale), weight


def hellinger(logq: torch.Tensor, log_target: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor):
    """Squared Hellinger distance, 1 - sum sqrt(q' T)."""
    return -0.5 * torch.exp(0.5 * (log_target - logq)), weight


#: name -> function (logq, log_target, weight, scale), all float64 [B] but scale [] -> (value [B], weight [B]);
#: the coefficient of grad log q' is weight * (value - weighted mean of value).
LOSSES: dict[str, Loss] = {"kl": kl, "l2": l2, "hellinger": hellinger}
