"""The tangent space of a network at its present parameters, seen from a fixed set of states.

The parameters that move are those of the heads: with hidden vector h(n_<i) and head features phi(n_i),

    log q_i(n_i | n_<i) = base + phi(n_i) . X_i^T [1, h] - log Z,     score  O_i(n) = [1, h] (x) (phi(n_i) - E_i[phi]).

Scores of different conditionals share no parameter and are uncorrelated under q. A `StateTree` keeps what does not
change while the heads move: the distinct prefixes of the states, their hidden vectors and masks. Then log q, O x and
O^T w cost one pass over the distinct prefixes, and no score is formed unless asked for.
"""

from __future__ import annotations

import math

import torch

from hpcme.dynamics.statistics import Features
from hpcme.networks.base import VAN

#: Log-probability of a count that does not matter anywhere, and how many more counts are kept.
_NOWHERE, _MARGIN = -36.0, 2
_FAINT = 1e-18  # probabilities of a count below this are taken for this in a regression


class HeadParameters:
    """The heads' parameters of a network as one float64 vector: for each position bias and weight, [1 + width, K]."""

    def __init__(self, network: VAN) -> None:
        self.network = network
        self.shapes = [(1 + head.weight.shape[0], head.weight.shape[1]) for head in network.heads]
        self.offsets = [0]
        for rows, columns in self.shapes:
            self.offsets.append(self.offsets[-1] + rows * columns)

    @property
    def size(self) -> int:
        return self.offsets[-1]

    def slice(self, i: int) -> slice:
        """Where the parameters of position i stand in the vector."""
        return slice(self.offsets[i], self.offsets[i + 1])

    def block(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """Part of a vector that belongs to position i, as a matrix [1 + width, K]."""
        return x[self.slice(i)].view(self.shapes[i])

    def get(self) -> torch.Tensor:
        """Present parameters, float64 [P]."""
        parts = [torch.cat([head.bias.detach()[None, :], head.weight.detach()]) for head in self.network.heads]
        return torch.cat([part.reshape(-1).double() for part in parts])

    @torch.no_grad()
    def set(self, x: torch.Tensor) -> None:
        """Write parameters, float64 [P], into the network."""
        for i, head in enumerate(self.network.heads):
            block = self.block(x, i)
            head.bias.copy_(block[0])
            head.weight.copy_(block[1:])


class Scores:
    """Scores of one conditional at M states, as the factors of their outer products.

    hidden float64 [M, G]: [1, h]. features float64 [M, K]: phi - E[phi]. There are P = G K parameters.
    """

    def __init__(self, hidden: torch.Tensor, features: torch.Tensor) -> None:
        # States last, so that sums over features run along contiguous memory.
        self.hidden, self.features = hidden.T.contiguous(), features.T.contiguous()

    def rows(self) -> torch.Tensor:
        """O^T, float64 [P, M]."""
        return (self.hidden[:, None, :] * self.features[None, :, :]).flatten(0, 1)

    def dense(self) -> torch.Tensor:
        """O, float64 [M, P]."""
        return self.rows().T.contiguous()

    def apply(self, v: torch.Tensor) -> torch.Tensor:
        """v O^T, float64 [n, M], of v float64 [n, P]."""
        (G, M), K, n = self.hidden.shape, len(self.features), len(v)
        natural = v.view(n, G, K).transpose(1, 2).reshape(n * K, G) @ self.hidden
        return (natural.view(n, K, M) * self.features).sum(dim=1)

    def adjoint(self, w: torch.Tensor) -> torch.Tensor:
        """w O, float64 [n, P], of w float64 [n, M]."""
        (G, M), K, n = self.hidden.shape, len(self.features), len(w)
        weighted = (w[:, None, :] * self.features).view(n * K, M) @ self.hidden.T
        return weighted.view(n, K, G).transpose(1, 2).reshape(n, G * K)

    def grams(self, weights: torch.Tensor) -> list[torch.Tensor]:
        """O^T diag(w) O, float64 [P, P] each, of the rows w of float64 [n, M]: each product of two hidden units or two
        features once."""
        G, K = len(self.hidden), len(self.features)
        a, b = torch.triu_indices(G, G, device=weights.device)
        k, l = torch.triu_indices(K, K, device=weights.device)
        hidden, features = self.hidden[a] * self.hidden[b], self.features[k] * self.features[l]
        return [_unpacked(hidden @ (features * w).T, (a, b), (k, l), G, K) for w in weights]


def _unpacked(moments: torch.Tensor, hidden: tuple, features: tuple, G: int, K: int) -> torch.Tensor:
    """The symmetric matrix float64 [G K, G K] whose entries for pairs of hidden units and of features are `moments`."""
    out = torch.zeros(G, K, G, K, dtype=moments.dtype, device=moments.device)
    (a, b), (k, l) = hidden, features
    for first, second in ((a, b), (b, a)):
        out[first[:, None], k, second[:, None], l] = moments
        out[first[:, None], l, second[:, None], k] = moments
    return out.view(G * K, G * K)


class StateTree:
    """States n int32 [N, S] of the support (model order), prepared for repeated evaluation.

    network: its hidden part must not change while the tree is in use.
    """

    @torch.no_grad()
    def __init__(self, parameters: HeadParameters, n: torch.Tensor) -> None:
        network = self.network = parameters.network
        self.parameters, self.N = parameters, n.shape[0]
        self.x = n[:, network.order].long()
        self.outside = torch.zeros(self.N, dtype=torch.bool, device=n.device)
        self.rows: list[torch.Tensor] = []  # per position: prefix (or what is seen of it) of every state, int64 [N]
        self.at: list[torch.Tensor] = []  # per position: place of every state's count in a table [U, counts], int64 [N]
        self.hidden: list[torch.Tensor] = []  # [1, h] at every distinct prefix, float64 [U, 1 + width]
        self.masks: list[torch.Tensor | None] = []
        self.bases = [head.base.double() for head in network.heads]
        tables = [phi if phi is None else phi.double() for phi in (head.features() for head in network.heads)]
        self.features = [Features(phi, len(b), n.device) for phi, b in zip(tables, self.bases, strict=True)]
        for i, (row, h, node) in enumerate(network.contexts(self.x)):
            self.rows.append(row)
            self.at.append(row * len(self.bases[i]) + self.x[:, i])
            h = h.double()
            self.hidden.append(torch.cat([h.new_ones(h.shape[0], 1), h], dim=1))
            mask = network.support.mask(i, node)
            self.masks.append(mask)
            if mask is not None:
                self.outside |= ~mask[row, self.x[:, i]]
        self._theta: torch.Tensor | None = None  # heads of the last `log_prob`
        self._means: dict[int, torch.Tensor] = {}

    def log_prob(self, temper: float | None = None) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """log q float64 [N] at the network's present heads (-inf outside the support), kept for the scores.

        temper: also the log-probability of the law whose conditionals are q_i^temper, renormalised.
        """
        theta = self._theta = self.parameters.get()
        self._means = {}
        logq = torch.zeros(self.N, dtype=torch.float64, device=self.x.device)
        flat = torch.zeros_like(logq)
        for i in range(self.network.S):
            logits = self._logits(i, theta)
            total = torch.logsumexp(logits, dim=1)
            logq += logits.reshape(-1).index_select(0, self.at[i]) - total.index_select(0, self.rows[i])
            if temper is not None:
                flat += torch.log_softmax(temper * logits, dim=1).reshape(-1).index_select(0, self.at[i])
        if bool(self.outside.any()):
            logq[self.outside], flat[self.outside] = -torch.inf, -torch.inf
        return logq if temper is None else (logq, flat)

    def narrow(self) -> None:
        """Leave out counts that no conditional gives any probability to speak of (after `log_prob`): most, where limits
        are generous. It holds while the law moves little; a new tree looks at all counts again."""
        if not self.N:
            return
        for i in range(self.network.S):
            p = self._conditional(i, self._theta).amax(dim=0)
            counts = max(int((p > _NOWHERE).nonzero()[-1]) + _MARGIN, int(self.x[:, i].max())) + 1
            if counts >= len(self.bases[i]):
                continue
            phi, mask = self.features[i].phi, self.masks[i]
            phi = torch.eye(len(p), counts, dtype=p.dtype, device=p.device) if phi is None else phi[:, :counts]
            self.bases[i] = self.bases[i][:counts]
            self.features[i] = Features(phi.contiguous(), counts, p.device)
            self.masks[i] = mask if mask is None else mask[:, :counts]
            self.at[i] = self.rows[i] * counts + self.x[:, i]
        self._means = {}

    def means(self, i: int) -> torch.Tensor:
        """E[phi] of conditional i at every distinct prefix, float64 [U, K], at the heads of the last `log_prob`."""
        if i not in self._means:
            p = self._conditional(i, self._theta).exp()
            self._means[i] = self.features[i].mean(p)
        return self._means[i]

    def flattened_each(self, temper: float, spread: float = 0.0) -> torch.Tensor:
        """log(r_i / q_i) with r_i the flattened conditional (`flattened`), float64 [S, N]; -inf off the support."""
        theta, out = self.parameters.get(), []
        for i in range(self.network.S):
            logp = self._conditional(i, theta)
            change = flattened(logp, temper, spread) - logp
            change = torch.where(torch.isneginf(logp), logp, change)
            out.append(change.reshape(-1).index_select(0, self.at[i]))
        return torch.stack(out)

    def apply(self, v: torch.Tensor) -> torch.Tensor:
        """O v, float64 [N]: how log q changes along v float64 [P] (after `log_prob`)."""
        out = torch.zeros(self.N, dtype=torch.float64, device=self.x.device)
        for i in range(self.network.S):
            natural = self.hidden[i] @ self.parameters.block(v, i)  # [U, K]
            centred = -(natural * self.means(i)).sum(dim=1)
            change = self.features[i].logits(natural)
            change = change + centred[:, None]
            out += change.reshape(-1).index_select(0, self.at[i])
        return out

    def adjoint(self, w: torch.Tensor) -> torch.Tensor:
        """O^T w, float64 [P], over the first len(w) states: w float64 [M] (after `log_prob`)."""
        out = []
        for i in range(self.network.S):
            U, counts = self.hidden[i].shape[0], len(self.bases[i])
            mass = torch.zeros(U * counts, dtype=torch.float64, device=w.device)
            mass = mass.index_add_(0, self.at[i][: w.shape[0]], w).view(U, counts)
            first = self.features[i].mean(mass)
            out.append((self.hidden[i].T @ (first - mass.sum(dim=1, keepdim=True) * self.means(i))).reshape(-1))
        return torch.cat(out)

    def conditional_loss(self, i: int, theta: torch.Tensor, p: torch.Tensor) -> float:
        """-sum p log q_i at parameters theta; p float64 [N] over the states."""
        return -float(p @ self._conditional(i, theta).reshape(-1).index_select(0, self.at[i]))

    def conditional_fit(
        self, i: int, theta: torch.Tensor, p: torch.Tensor, prefix: torch.Tensor
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """-sum p log q_i at parameters theta, its descent direction O_i^T p [P_i] and its Hessian [P_i, P_i].

        p float64 [N] over the states; prefix float64 [U], its sums over the distinct prefixes of position i.
        """
        logp = self._conditional(i, theta)
        q, phi = logp.exp(), self.features[i]
        loss = -float(p @ logp.reshape(-1).index_select(0, self.at[i]))
        mean = phi.mean(q)
        first = phi.mean(self._masses(i, p, logp))
        h = self.hidden[i]
        gradient = (h.T @ (first - prefix[:, None] * mean)).reshape(-1)
        return loss, gradient, self._fisher(i, prefix, q, mean)

    def conditional_regression(
        self, i: int, theta: torch.Tensor, p: torch.Tensor, prefix: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-hand side [P_i] and matrix [P_i, P_i] of the least squares of log p_i - log q_i on the scores, each
        count weighted by (p_i + q_i) / 2: the change of theta for which log q_i is about log p_i, however far it is."""
        logp, phi, h = self._conditional(i, theta), self.features[i], self.hidden[i]
        q = logp.exp()
        wanted = self._masses(i, p, logp) / prefix.clamp_min(1e-300)[:, None]
        weight = 0.5 * (wanted + q)
        weight = weight / weight.sum(dim=1, keepdim=True)
        change = torch.where(q > 0.0, torch.log(wanted.clamp_min(_FAINT)) - logp.clamp_min(math.log(_FAINT)), 0.0)
        mean = phi.mean(weight)
        centred = change - (weight * change).sum(dim=1, keepdim=True)
        return (h.T @ (prefix[:, None] * phi.mean(weight * centred))).reshape(-1), self._fisher(i, prefix, weight, mean)

    def _masses(self, i: int, p: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Sums of p float64 [N] over the states of every prefix and count of position i, as `like` [U, counts]."""
        mass = torch.zeros(like.numel(), dtype=torch.float64, device=p.device)
        return mass.index_add_(0, self.at[i], p).view(like.shape)

    def _fisher(self, i: int, prefix: torch.Tensor, q: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """sum over prefixes of weight [1, h][1, h]^T (x) Cov_q(phi), float64 [P_i, P_i]: weights prefix [U], laws
        q [U, counts] of the conditional, means of its features [U, K]."""
        h, phi, (G, K) = self.hidden[i], self.features[i], (self.hidden[i].shape[1], mean.shape[1])
        # Splines overlap with few others: only these products have a second moment.
        k, l = phi.pairs
        a, b = torch.triu_indices(G, G, device=h.device)
        moments = torch.zeros(len(a), len(k), dtype=torch.float64, device=h.device)
        minus = torch.zeros(G * K, G * K, dtype=torch.float64, device=h.device)
        for part in torch.arange(h.shape[0], device=h.device).split(max(1, 8_000_000 // (G * (G + K)))):
            moments += (h[part][:, a] * h[part][:, b]).T @ (phi.second(q[part]) * prefix[part, None])
            root = (h[part] * prefix[part, None].clamp_min(0.0).sqrt())[:, :, None] * mean[part][:, None, :]
            root = root.reshape(len(part), -1)
            minus += root.T @ root
        return _unpacked(moments, (a, b), (k, l), G, K) - minus

    def scores(self, i: int, states: slice | torch.Tensor) -> torch.Tensor:
        """Scores of conditional i, float64 [M, P_i], at some of the states (after `log_prob`)."""
        return self.score_factors(i, states).dense()

    def score_factors(self, i: int, states: slice | torch.Tensor) -> Scores:
        """The same, not multiplied out."""
        rows, x = self.rows[i][states], self.x[states, i]
        if self.features[i].phi is None:
            d = torch.nn.functional.one_hot(x, len(self.bases[i])).double()
        else:
            d = self.features[i].phi.T[x]
        return Scores(self.hidden[i][rows], d - self.means(i)[rows])

    def _conditional(self, i: int, theta: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of conditional i at every distinct prefix and parameters theta, float64 [U, counts]."""
        return torch.log_softmax(self._logits(i, theta), dim=1)

    def _logits(self, i: int, theta: torch.Tensor) -> torch.Tensor:
        logits = self.features[i].logits(self.hidden[i] @ self.parameters.block(theta, i)) + self.bases[i]
        return logits if self.masks[i] is None else logits.masked_fill(~self.masks[i], -torch.inf)


def flattened(logp: torch.Tensor, temper: float, spread: float = 0.0) -> torch.Tensor:
    """Conditionals that meet rare counts more often, float64 [U, counts], from log-probabilities logp of that shape.

    They are q^temper, renormalised, but for a share `spread`, which is q moved up or down by one count: the only way to
    a count that q does not know yet. Counts of probability zero keep it.
    """
    flat = torch.log_softmax(temper * logp, dim=1)
    if not spread or logp.shape[1] < 2:
        return flat
    p = logp.exp()
    moved = torch.zeros_like(p)
    moved[:, 1:] += p[:, :-1]
    moved[:, :-1] += p[:, 1:]
    moved = torch.where(torch.isneginf(logp), torch.zeros_like(p), moved)
    total = moved.sum(dim=1, keepdim=True)
    share = spread * (total > 0.0).to(p.dtype)
    return torch.log((1.0 - share) * flat.exp() + share * moved / total.clamp_min(1e-300))
