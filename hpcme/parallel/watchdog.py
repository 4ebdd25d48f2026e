"""Notices ranks that stand still: stopped, hung, or on a host that is gone.

A collective waits for every rank, so one that stands still would make all others wait for as long as the job lives. A
thread of every rank counts up a number in the run's TCPStore, and looks at the numbers of the others. A number that
stands still for half of the run's time-out (a collective that waits for the whole of it ends by itself, but cannot tell
whom it waited for) ends all ranks, with the rank and its host in the log; the run goes on later from its
newest checkpoint. Whoever was itself silent meanwhile (a suspended job, a sleeping laptop) starts counting anew.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

_EXIT = 70


class Watchdog:
    """The watching threads of one rank; `stop` ends them.

    address, port: of the TCPStore, which lives in rank 0. hosts: host name of every rank. timeout: run.timeout in
    seconds.
    abort: ends all ranks with an exit code, whatever the main thread is doing.
    """

    def __init__(
        self, address: str, port: int, rank: int, hosts: list[str], timeout: float, abort: Callable[[int], None]
    ) -> None:
        from torch.distributed import TCPStore

        self.rank, self.hosts, self.patience, self.abort = rank, hosts, 0.5 * timeout, abort
        # A connection of its own: the main thread may be waiting in the other one.
        self._store = TCPStore(address, port, None, is_master=False, timeout=timedelta(seconds=timeout))
        self._keys = [f"hpcme/beat/{r}" for r in range(len(hosts))]
        self._store.set(self._keys[rank], "0")
        self._pause = min(10.0, timeout / 20.0)
        self._ended = threading.Event()
        self._asked = time.monotonic()  # when the store was asked last
        self._waiting = False  # for its answer
        # Two threads: once the host of the store is silent, the one that asks it may never return.
        self._threads = [
            threading.Thread(target=work, name="hpcme-watchdog", daemon=True) for work in (self._ask, self._time)
        ]

    def start(self) -> None:
        """Begin to watch; every rank has made its watchdog by now."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads, while the store is still there."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        """Exchange signs of life through the store."""
        count, seen, since = 0, [""] * len(self.hosts), [time.monotonic()] * len(self.hosts)
        last = time.monotonic()
        while not self._ended.wait(self._pause):
            count += 1
            self._asked, self._waiting = time.monotonic(), True
            try:
                self._store.set(self._keys[self.rank], str(count))
                beats = [bytes(beat).decode() for beat in self._store.multi_get(self._keys)]
            except RuntimeError as error:
                if not self._ended.is_set():
                    self._lost(0, f"its store is gone ({str(error).splitlines()[0]})")
                return
            self._waiting = False
            now = time.monotonic()
            if self._stood_still(now - last):
                since = [now] * len(self.hosts)
            last = now
            for rank, beat in enumerate(beats):
                if beat != seen[rank]:
                    seen[rank], since[rank] = beat, now
            silent = [rank for rank, moment in enumerate(since) if now - moment > self.patience]
            if silent:
                self._lost(silent[0], "it stands still or its host is gone")
                return

    def _time(self) -> None:
        """Notice that the store, hence rank 0, does not answer."""
        last = time.monotonic()
        while not self._ended.wait(self._pause):
            now = time.monotonic()
            if self._stood_still(now - last):
                self._asked = now
            last = now
            if self._waiting and now - self._asked > self.patience:
                self._lost(0, "it stands still or its host is gone")
                return

    def _stood_still(self, gap: float) -> bool:
        """Whether this process itself was stopped, given the time between two rounds of one thread."""
        return gap > 5.0 * self._pause + 1.0

    def _lost(self, lost: int, why: str) -> None:
        sys.stderr.write(
            f"hpcme: rank {self.rank} ends the job: rank {lost} of {len(self.hosts)} on {self.hosts[lost]} has given "
            f"no sign of life for {self.patience:g} s, half of run.timeout: {why}. The same command continues the run "
            "from its newest checkpoint\n"
        )
        self.abort(_EXIT)
