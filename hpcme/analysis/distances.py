"""Distances between probability laws, and how large they look from sampling noise alone.

Conventions (p, q probabilities of the same outcomes):
    total variation       TV = 1/2 sum |p - q|                      in [0, 1]
    Hellinger             H  = sqrt(1 - sum sqrt(p q))              in [0, 1]; H^2 <= TV <= H sqrt(2 - H^2)
    Kullback-Leibler      KL(p || q) = sum p log(p / q)             natural logarithm, in nats
Arrays may sum to less than one (truncated laws). For TV and H the missing mass is then one more outcome; KL
is the generalised divergence sum [p log(p/q) - p + q] >= 0, which is KL where both sums are one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import gammaln, kl_div
from scipy.stats import binom

from hpcme.errors import InputError

#: Probability below which a law counts as zero: exact solutions are accurate to about 1e-10.
NOTHING = 1e-9
_MANY = 40.0  # expected counts above which E sqrt(X) is expanded instead of summed


def _pair(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.ndim != 1 or q.ndim != 1:
        raise InputError(f"probabilities have shapes {p.shape} and {q.shape}; expected one dimension each.")
    length = max(len(p), len(q))
    p, q = np.pad(p, (0, length - len(p))), np.pad(q, (0, length - len(q)))
    for name, law in (("first", p), ("second", q)):
        if not np.isfinite(law).all() or (law < -NOTHING).any() or law.sum() > 1 + 1e-6:
            raise InputError(
                f"the {name} argument is not a probability law: its values must be finite, not negative,"
                f" and sum to at most 1 (sum {law.sum():.6g}, least {law.min(initial=0.0):.3g})."
            )
    return np.maximum(p, 0.0), np.maximum(q, 0.0)


def _missing(p: np.ndarray) -> float:
    return max(0.0, 1.0 - float(p.sum()))


def tv(p: np.ndarray, q: np.ndarray) -> float:
    """Total variation distance of two laws on 0, 1, 2, ... (the shorter one is zero beyond its end)."""
    p, q = _pair(p, q)
    return 0.5 * (float(np.abs(p - q).sum()) + abs(_missing(p) - _missing(q)))


def hellinger(p: np.ndarray, q: np.ndarray) -> float:
    """Hellinger distance, as 1/2 sum (sqrt p - sqrt q)^2 = 1 - sum sqrt(p q), which does not cancel."""
    p, q = _pair(p, q)
    elsewhere = (np.sqrt(_missing(p)) - np.sqrt(_missing(q))) ** 2
    return float(np.sqrt(0.5 * (((np.sqrt(p) - np.sqrt(q)) ** 2).sum() + elsewhere)))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Generalised Kullback-Leibler divergence of q from p, nats; infinite where q is zero and p is not."""
    p, q = _pair(p, q)
    return float(kl_div(p, q).sum())


def tv_floor(p: np.ndarray, number: float) -> float:
    """Expected total variation between a law p and the histogram of `number` samples of it.

    E TV = 1/2 sum E|X/N - p| with X ~ Binomial(N, p), whose mean absolute deviation is (de Moivre)
    E|X - N p| = 2 (m+1) C(N, m+1) p^(m+1) (1-p)^(N-m), m = floor(N p): exact for whole N. For N p >> 1 it is
    the normal sqrt(2 N p (1-p) / pi). `number` may be an effective sample size; it is rounded.
    """
    p, N = _cells(p), max(1, round(number))
    m = np.minimum(np.floor(N * p), N - 1)
    log_choose = gammaln(N + 1) - gammaln(m + 2) - gammaln(N - m)
    deviation = 2.0 * (m + 1) * np.exp(log_choose + (m + 1) * np.log(p) + (N - m) * np.log1p(-p))
    return 0.5 * float(deviation.sum()) / N


def hellinger_floor(p: np.ndarray, number: float) -> float:
    """Root mean square of the Hellinger distance between a law p and the histogram of `number` samples of it.

    E H^2 = sum [p - sqrt(p) E sqrt(X/N)], X ~ Binomial(N, p). With mu = N p >> 1 a term is (1-p)/(8N) to
    leading order, so that E H^2 = (K-1)/(8N) for K well-sampled outcomes; an outcome with mu << 1 adds its p.
    Small mu are summed exactly, large ones expanded to third order in 1/mu.
    """
    p, N = _cells(p), max(1, round(number))
    mu = N * p
    large = mu > _MANY
    r = 1.0 - p[large]
    m = mu[large]
    terms = np.empty_like(p)
    # E sqrt(X) about mu to fourth order in the fluctuation: variance mu r, third moment mu r (1 - 2p), fourth
    # 3 (mu r)^2
    terms[large] = p[large] * (r / (8 * m) - r * (1 - 2 * p[large]) / (16 * m**2) + 15 * r**2 / (128 * m**2))
    x = np.arange(int(_MANY + 12 * np.sqrt(_MANY)) + 1)
    small = p[~large]
    root = (binom.pmf(x[None, :], N, small[:, None]) * np.sqrt(x / N)[None, :]).sum(axis=1)
    terms[~large] = small - np.sqrt(small) * root
    return float(np.sqrt(max(0.0, terms.sum())))


def _cells(p: np.ndarray) -> np.ndarray:
    """Outcomes with probability strictly between 0 and 1; the others have no sampling noise."""
    p = _pair(p, p)[0]
    return p[(p > 0) & (p < 1)]


def floors(p: np.ndarray, q: np.ndarray, p_se: np.ndarray, q_se: np.ndarray) -> tuple[float, float]:
    """Expected TV, and root mean square of H, between two estimates of one law with known standard errors.

    With v = p_se^2 + q_se^2 and the mean m of both: E|p - q| = sqrt(2 v / pi) (normal), E (sqrt p - sqrt q)^2
    = v / (4 m) (delta method); neither can exceed 2 m, the value for outcomes seen at most once.
    """
    length = max(map(len, (p, q, p_se, q_se)))
    p, q, p_se, q_se = (
        np.pad(np.asarray(a, dtype=np.float64), (0, length - len(a))) for a in (p, q, p_se, q_se)
    )
    v, m = p_se**2 + q_se**2, 0.5 * (p + q)
    difference = np.minimum(np.sqrt(2.0 * v / np.pi), 2.0 * m)
    square = np.minimum(np.divide(v, 4.0 * m, out=np.zeros_like(v), where=m > 0), 2.0 * m)
    return 0.5 * float(difference.sum()), float(np.sqrt(0.5 * square.sum()))


def tabulated_joint(p: np.ndarray, logq: np.ndarray) -> dict[str, Any]:
    """Distances of joint laws from sums over a set F of states: p [M] on F, logq [M] log q on F.

    p_F = sum p and q_F = sum q may be less than one. What lies outside F is counted as if the two laws had
    nothing in common there: TV = 1/2 [sum_F |p-q| + (1-p_F) + (1-q_F)] and H^2 = 1 - sum_F sqrt(p q).
    If p is a lower bound of a law P that lacks l = 1 - p_F (finite state projection), then TV(P, q) is at
    most the value given and at least that minus l (triangle inequality), and H(P, q) at most the one given.
    kl = sum_F [p log(p/q) - p + q] + (1-q_F) = sum_F p log(p/q) + l; kl_reverse has p and q exchanged.
    A divergence is None, with a reason, where a law has more than 1e-9 on states on which the other one is
    zero. Returns {"tv", "hellinger", "kl", "kl_reverse", "p_outside", "q_outside", "reasons": {name: text}}.
    """
    p, q = np.maximum(np.asarray(p, dtype=np.float64), 0.0), np.exp(np.asarray(logq, dtype=np.float64))
    p_out, q_out = _missing(p), _missing(q)
    square = 0.5 * (((np.sqrt(p) - np.sqrt(q)) ** 2).sum() + p_out + q_out)
    found: dict[str, Any] = {
        "tv": 0.5 * (float(np.abs(p - q).sum()) + p_out + q_out),
        "hellinger": float(np.sqrt(min(1.0, square))),
        "p_outside": p_out,
        "q_outside": q_out,
        "reasons": {},
    }
    p_alone, q_alone = float(p[q == 0].sum()), float(q[p == 0].sum()) + q_out
    both = (p > 0) & (q > 0)
    for name, first, second, alone, rest, words in (
        ("kl", p, q, p_alone, q_out, "the reference has {:.3g} on states on which the run's law is zero"),
        (
            "kl_reverse",
            q,
            p,
            q_alone,
            p_out,
            "the run's law has {:.3g} on states on which the reference is zero",
        ),
    ):
        if alone > NOTHING:
            found[name], found["reasons"][name] = None, words.format(alone)
        else:
            found[name] = (
                float(kl_div(first[both], second[both]).sum()) + float(second[first == 0].sum()) + rest
            )
    return found


def sampled_joint(logq: np.ndarray, logp: np.ndarray) -> dict[str, Any]:
    """Distances of two joint laws from samples of q: logq, logp [N] are log-probabilities at them.

    TV = E_q (1 - p/q)_+, H^2 = 1 - E_q sqrt(p/q), KL(q || p) = E_q [log q - log p], with standard errors
    (H by the delta method: se(H^2) / (2H)). KL is None, with a reason, when a sample is impossible under p.
    Returns {"tv", "tv_se", "hellinger", "hellinger_se", "kl_reverse", "kl_reverse_se", "reasons"}; kl_reverse
    because p is the reference.
    """
    difference = np.asarray(logp, dtype=np.float64) - np.asarray(logq, dtype=np.float64)
    N = len(difference)
    if N < 2 or not np.isfinite(logq).all():
        raise InputError(
            f"{N} samples, {int(np.sum(~np.isfinite(logq)))} of them impossible under their own law; expected"
            " at least two possible ones."
        )
    part = -np.expm1(np.minimum(difference, 0.0))
    root = np.exp(0.5 * difference)
    h2, h2_se = max(0.0, 1.0 - float(root.mean())), _se(root)
    h = float(np.sqrt(h2))
    found: dict[str, Any] = {
        "tv": float(part.mean()),
        "tv_se": _se(part),
        "hellinger": h,
        "hellinger_se": h2_se / (2 * h) if h > 0 else float(np.sqrt(h2_se)),
        "reasons": {},
    }
    impossible = int(np.sum(difference == -np.inf))
    if impossible:
        found |= {"kl_reverse": None, "kl_reverse_se": None}
        found["reasons"]["kl_reverse"] = (
            f"{impossible} of {N} samples of the run are impossible under the reference"
        )
    else:
        found |= {"kl_reverse": float(-difference.mean()), "kl_reverse_se": _se(difference)}
    return found


def _se(x: np.ndarray) -> float:
    return float(x.std(ddof=1) / np.sqrt(len(x)))
