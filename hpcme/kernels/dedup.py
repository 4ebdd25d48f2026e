"""Distinct states: a growing hash table of whole rows, and unique rows in order of first appearance.

Open addressing with linear probing. A slot holds a row's index; equal hashes are settled by comparing the
rows, so results never depend on the hash. Everything is sequential and deterministic.
"""

from __future__ import annotations

import numba
import numpy as np

from hpcme.kernels.compiling import CHUNK, PARALLEL_FROM, device, hot, parallel
from hpcme.kernels.neighbours import INSIDE, NEGATIVE, where_lands

_EMPTY = -1

#: What `find_moved` says instead of an index: not in the table; a negative count; a count past its limit.
UNKNOWN, BELOW_ZERO, PAST_LIMIT = -1, -2, -3

_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_START = np.uint64(0x9E3779B97F4A7C15)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


@device
def _hash_row(row):
    """64-bit hash of an integer row: each entry is mixed in with splitmix64's finaliser (public domain, S.
    Vigna).
    """
    h = _START
    for i in range(row.shape[0]):
        h = (h ^ np.uint64(row[i])) * _M1
        h = (h ^ (h >> _S27)) * _M2
        h ^= h >> _S31
    return h ^ (h >> _S30)


@device
def _same(x, y):
    for i in range(x.shape[0]):  # noqa: SIM110 (a generator would not compile to a plain loop)
        if x[i] != y[i]:
            return False
    return True


@device
def _slot_of(row, h, slots, states, hashes):
    """The slot that holds `row`, or the empty slot where it belongs; slots' length is a power of two."""
    mask = np.uint64(slots.shape[0] - 1)
    i = h & mask
    while True:
        index = slots[np.int64(i)]
        if index == _EMPTY or (hashes[index] == h and _same(states[index], row)):
            return np.int64(i)
        i = (i + np.uint64(1)) & mask


@hot
def _add(n, begin, slots, states, hashes, size, out):
    """Insert rows begin.. until done or full; returns (rows handled so far, new size). At most half the
    slots are used.
    """
    room = min(states.shape[0], slots.shape[0] // 2)
    for b in range(begin, n.shape[0]):
        h = _hash_row(n[b])
        slot = _slot_of(n[b], h, slots, states, hashes)
        if slots[slot] == _EMPTY:
            if size == room:
                return b, size
            slots[slot] = size
            hashes[size] = h
            for i in range(n.shape[1]):
                states[size, i] = n[b, i]
            size += 1
        out[b] = slots[slot]
    return n.shape[0], size


@hot
def _find(n, slots, states, hashes, out):
    for b in range(n.shape[0]):
        out[b] = slots[_slot_of(n[b], _hash_row(n[b]), slots, states, hashes)]


@hot
def _find_moved(n, s, sign, limits, slots, states, hashes, row, out, begin, end):
    for b in range(begin, end):
        for k in range(s.shape[0]):
            place = where_lands(n[b], s[k], sign, limits)
            if place != INSIDE:
                out[b, k] = BELOW_ZERO if place == NEGATIVE else PAST_LIMIT
                continue
            for i in range(n.shape[1]):
                row[i] = n[b, i] + sign * s[k, i]
            out[b, k] = slots[_slot_of(row, _hash_row(row), slots, states, hashes)]


@parallel
def _find_moved_parallel(n, s, sign, limits, slots, states, hashes, out):
    for chunk in numba.prange((n.shape[0] + CHUNK - 1) // CHUNK):
        row = np.empty(n.shape[1], dtype=np.int32)
        end = min((chunk + 1) * CHUNK, n.shape[0])
        _find_moved(n, s, sign, limits, slots, states, hashes, row, out, chunk * CHUNK, end)


@hot
def _rehash(hashes, size, slots):
    mask = np.uint64(slots.shape[0] - 1)
    for index in range(size):
        i = hashes[index] & mask
        while slots[np.int64(i)] != _EMPTY:
            i = (i + np.uint64(1)) & mask
        slots[np.int64(i)] = index


class StateTable:
    """Gives every distinct state an index 0, 1, 2, ... in order of first appearance, and remembers it.

    Works for any number of species S and any int32 counts. Law: `table.states[table.add(n)[0]] == n`.
    """

    def __init__(self, species: int, room: int = 1024) -> None:
        """Empty table for rows of `species` counts; `room` is the number of states expected (it grows as
        needed).
        """
        self._size = 0
        room = max(int(room), 16)
        self._states = np.empty((room, species), dtype=np.int32)
        self._hashes = np.empty(room, dtype=np.uint64)
        self._slots = np.full(1 << (2 * room - 1).bit_length(), _EMPTY, dtype=np.int64)

    def __len__(self) -> int:
        return self._size

    @property
    def states(self) -> np.ndarray:
        """The states seen so far, int32 [len, S], row i being the state with index i (a view: do not
        write).
        """
        return self._states[: self._size]

    def add(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index of every row of n (int32 [B, S]), new states getting the next indices in order of first
        appearance.

        Returns index int64 [B] and the new states int32 [U, S] (a copy), in the order of their indices.
        """
        n = np.ascontiguousarray(n, dtype=np.int32)
        index = np.empty(n.shape[0], dtype=np.int64)
        before = self._size
        done, self._size = _add(n, 0, self._slots, self._states, self._hashes, self._size, index)
        while done < n.shape[0]:
            self._grow()
            done, self._size = _add(n, done, self._slots, self._states, self._hashes, self._size, index)
        return index, self._states[before : self._size].copy()

    def find(self, n: np.ndarray) -> np.ndarray:
        """Index int64 [B] of every row of n (int32 [B, S]); -1 where the state was never added."""
        n = np.ascontiguousarray(n, dtype=np.int32)
        index = np.empty(n.shape[0], dtype=np.int64)
        _find(n, self._slots, self._states, self._hashes, index)
        return index

    def find_moved(self, n: np.ndarray, s: np.ndarray, limits: np.ndarray, sign: int = 1) -> np.ndarray:
        """Index int64 [B, R] of n + sign * s_k for every row of n (int32 [B, S]) and every reaction (s int64
        [R, S]).

        UNKNOWN (-1) where that state is inside 0..limits but not in the table, BELOW_ZERO (-2) where a count
        would be negative, PAST_LIMIT (-3) where one would pass its limit.
        """
        n = np.ascontiguousarray(n, dtype=np.int32)
        out = np.empty((n.shape[0], s.shape[0]), dtype=np.int64)
        if n.shape[0] >= PARALLEL_FROM:
            _find_moved_parallel(n, s, sign, limits, self._slots, self._states, self._hashes, out)
        else:
            row = np.empty(n.shape[1], dtype=np.int32)
            _find_moved(n, s, sign, limits, self._slots, self._states, self._hashes, row, out, 0, n.shape[0])
        return out

    def _grow(self) -> None:
        room = 2 * self._states.shape[0]
        states = np.empty((room, self._states.shape[1]), dtype=np.int32)
        hashes = np.empty(room, dtype=np.uint64)
        states[: self._size] = self._states[: self._size]
        hashes[: self._size] = self._hashes[: self._size]
        self._states, self._hashes = states, hashes
        self._slots = np.full(2 * self._slots.shape[0], _EMPTY, dtype=np.int64)
        _rehash(self._hashes, self._size, self._slots)


def unique_states(n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows of n (int32 [B, S]) in order of first appearance.

    Returns u int32 [U, S], inverse int64 [B] with u[inverse] == n, and counts int64 [U] with sum B.
    """
    n = np.ascontiguousarray(n, dtype=np.int32)
    table = StateTable(n.shape[1], room=max(16, n.shape[0] // 8))
    inverse, u = table.add(n)
    return u, inverse, np.bincount(inverse, minlength=len(table)).astype(np.int64)
