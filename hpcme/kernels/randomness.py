"""Random numbers inside compiled kernels: xoshiro256++ seeded by splitmix64.

A stream is a function of (seed, index) alone, so trajectories do not depend on threads, ranks or how they are
split. Algorithms: D. Blackman and S. Vigna, ACM Trans. Math. Softw. 47, 36 (2021); both are in the public
domain.
"""

from __future__ import annotations

import numpy as np

from hpcme.kernels.compiling import device, hot

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_S23, _S41, _S17, _S45, _S19, _S11 = (np.uint64(x) for x in (23, 41, 17, 45, 19, 11))
_UNIT = 2.0**-53


@device
def _finish(z):
    """Splitmix64's output function: a bijection of 64-bit words."""
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


@hot
def seed_stream(state, seed, index):
    """Fill state (uint64 [4]) for stream `index` of `seed`."""
    # The seed is mixed before the index enters, so that (seed, index + 1) and (seed + 1, index) are
    # unrelated.
    z = _finish(np.uint64(seed) + _GOLDEN) ^ (np.uint64(index) * _GOLDEN)
    for i in range(4):
        z += _GOLDEN
        state[i] = _finish(z)


@hot
def next_word(state):
    """The next 64 random bits of the stream."""
    total = state[0] + state[3]
    word = ((total << _S23) | (total >> _S41)) + state[0]
    moved = state[1] << _S17
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= moved
    state[3] = (state[3] << _S45) | (state[3] >> _S19)
    return word


@hot
def next_uniform(state):
    """A uniform number in [0, 1) with 53 random bits."""
    return np.float64(next_word(state) >> _S11) * _UNIT
