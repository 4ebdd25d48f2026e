"""Maximum likelihood fits of a network's heads: argmin KL(p || q) over q, for a law p known at a set of states.

With fixed hidden vectors every conditional is an exponential family in its head's parameters, so

    KL(p || q) = -sum_n p(n) sum_i log q_i(n_i | n_<i) + constant

falls apart into one convex problem per conditional. Newton's method solves it; the Hessian is the Fisher matrix
sum over prefixes of p(n_<i) [1, h][1, h]^T (x) Cov_q(phi), so a Newton step is a natural-gradient step. A minute pull
towards where the parameters were makes the minimum unique: what p does not determine stays as it was, and the result
depends smoothly on p (rounding is not amplified, whatever the number of ranks).
"""

from __future__ import annotations

import torch

from hpcme.dynamics.tangent import HeadParameters, StateTree
from hpcme.parallel.world import World

_UNSEEN = 1e-5  # parameters that carry less probability than this are damped as if they carried it
_RIDGE = 1e-9  # of a regression
_SHORTEST = 1.0 / 16.0  # of Newton's step, before damping turns it
_FIRST, _FAR = 1e-3, 1.0  # the first damping where Newton's step promises more than that
_LEAST, _MOST = 1e-7, 1e8  # Levenberg-Marquardt damping: below the first there is none, at the second all hope is lost


def fit_conditionals(
    parameters: HeadParameters, tree: StateTree, p: torch.Tensor, *, pull: float, accuracy: float,
    iterations: int = 60, damping: float = 1e-3, world: World | None = None, guess: torch.Tensor | None = None,
) -> int:  # fmt: skip
    """Fit all heads, in place, to probabilities p float64 [N] at the states of a tree; returns the Newton steps taken.

    world: where each rank holds some of the states (collective); None where the tree holds them all. pull: weight of
    |theta - theta_before|^2 / 2. damping: of the first steps (Levenberg and Marquardt); 0 where the fit starts close to
    its end. guess: float64 [P], where the search begins (default: at the present parameters); the problem stays the
    same, pull included, and so does its only solution. accuracy: a fit ends when Newton's step would lower the
    divergence by less than this.
    Raises nothing: a fit that does not get there in `iterations` steps stays where it came.
    """
    return sum(
        _fit_conditional(parameters, tree, p, i, pull, accuracy, iterations, damping, world, guess)
        for i in range(parameters.network.S)
    )


def _fit_conditional(parameters, tree, p, i, pull, accuracy, iterations, damping, world, guess) -> int:
    prefix = torch.zeros(tree.hidden[i].shape[0], dtype=torch.float64, device=p.device).index_add_(0, tree.rows[i], p)
    begin = parameters.get()
    own = parameters.slice(i)
    size = own.stop - own.start
    identity = torch.eye(size, dtype=torch.float64, device=p.device)

    def evaluate(theta: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Loss, descent direction [P_i] and Hessian [P_i, P_i] at theta, pull included."""
        loss, gradient, hessian = tree.conditional_fit(i, theta, p, prefix)
        if world is not None:
            flat = world.sum_(torch.cat([p.new_tensor([loss]), gradient, hessian.reshape(-1)]))
            loss, gradient, hessian = float(flat[0]), flat[1 : 1 + size], flat[1 + size :].view(size, size)
        away = theta[own] - begin[own]
        return loss + 0.5 * pull * float(away @ away), gradient - pull * away, hessian + pull * identity

    def loss_at(theta: torch.Tensor) -> float:
        """The loss alone, which costs little."""
        loss = p.new_tensor([tree.conditional_loss(i, theta, p)])
        away = theta[own] - begin[own]
        return float(loss if world is None else world.sum_(loss)) + 0.5 * pull * float(away @ away)

    theta, regress = begin.clone(), damping == 0.0
    if guess is not None:
        theta[own], regress = guess[own], False
    if regress:
        theta = min((begin, _regressed(tree, i, begin, own, p, prefix, world)), key=loss_at)
    loss, gradient, hessian = evaluate(theta)
    taken = int(regress)
    for _ in range(iterations):
        guard = damping * (hessian.diagonal() + _UNSEEN) if damping else torch.zeros_like(gradient)
        factor, info = torch.linalg.cholesky_ex(hessian + torch.diag(guard))
        if int(info):
            damping = max(10.0 * damping, _LEAST)
            continue
        d = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        promised = 0.5 * float(gradient @ d)
        if promised < accuracy and damping <= _LEAST:
            # This last step leaves its own square: where the search began does not show any more, on any rank.
            theta[own] += d
            break
        trial, length = theta.clone(), 1.0
        while True:
            trial[own] = theta[own] + length * d
            found = loss_at(trial)
            # Close to the minimum the gain is below the rounding of the loss: there the promise is believed.
            better = found < loss or (promised < 1e-13 and found < loss + 1e-12)
            if better or length <= _SHORTEST:
                break
            length *= 0.5
        taken += 1
        if better:
            theta, (loss, gradient, hessian) = trial, evaluate(trial)
            damping = 0.1 * damping if damping > _LEAST else 0.0
        elif damping > _MOST:
            break
        else:
            damping = max(10.0 * damping, _FIRST if promised > _FAR else _LEAST)
    parameters.set(theta)
    return taken


def _regressed(tree, i, begin, own, p, prefix, world) -> torch.Tensor:
    """Parameters for which log q_i comes close to log p_i in the least squares sense, float64 [P]: close to where
    Newton's method ends also where its own first steps, which see p - q alone, would go far beyond."""
    right, matrix = tree.conditional_regression(i, begin, p, prefix)
    if world is not None:
        # Prefixes whose states are on several ranks make this a poorer guess, the same one on every rank.
        flat = world.sum_(torch.cat([right, matrix.reshape(-1)]))
        right, matrix = flat[: len(right)], flat[len(right) :].view(matrix.shape)
    factor, info = torch.linalg.cholesky_ex(matrix + torch.diag(1e-6 * matrix.diagonal() + _RIDGE))
    theta = begin.clone()
    if not int(info):
        theta[own] += torch.cholesky_solve(right[:, None], factor)[:, 0]
    return theta
