"""The ranks of one run: mpi4py is the control plane, torch.distributed the data plane.

A single process needs neither. `open_world` decides by what the launcher says, joins torch.distributed through a
TCPStore whose port rank 0 lets the kernel choose, and tests the result, so that a wrong launch ends with words
instead of with N silent worlds of size one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch

from hpcme.errors import HpcmeError, InputError, RankError, explain
from hpcme.parallel.ending import PATIENCE, say_once
from hpcme.parallel.launch import launched_size, set_threads
from hpcme.parallel.watchdog import Watchdog


class World:
    """One process, no MPI. Also the interface of `MpiWorld`; all tensors are reduced in place."""

    rank, size, local_rank, local_size, main = 0, 1, 0, 1, True

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads = device, threads

    def use_threads(self, useful: int) -> None:
        """Limit torch's CPU threads to a useful number for this run's matrices."""
        self.threads = set_threads(self.local_size, useful)

    def part(self, count: int) -> slice:
        """This rank's part of `count` items in order; parts of different ranks differ by one item at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def describe(self) -> str:
        return f"1 process on {_device_name(self.device)}, {self.threads} CPU thread(s)"

    def sum_(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place; every rank gets the result."""
        return x

    def min_(self, x: torch.Tensor) -> torch.Tensor:
        """Element-wise minimum over ranks, in place."""
        return x

    def broadcast_(self, x: torch.Tensor) -> torch.Tensor:
        """Values of rank 0 on every rank, in place."""
        return x

    def share(self, value: Any) -> Any:
        """A small Python object of rank 0 on every rank."""
        return value

    def gather(self, x: np.ndarray) -> list[np.ndarray] | None:
        """Arrays of all ranks in rank order, on rank 0; None elsewhere."""
        return [x]

    def any(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        return flag

    def raise_together(self, error: HpcmeError | None) -> None:
        """Raise on all ranks the first rank's error, so that none is left waiting in a collective."""
        if error is not None:
            raise error

    def all_arrived(self, seconds: float) -> bool:
        """True when every rank calls this within `seconds`: then all of them met the same end. After False,
        another call goes on waiting."""
        return True

    def abort(self, code: int) -> None:
        """End all ranks at once with this exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def close(self) -> None:
        """Leave torch.distributed in good order."""


class MpiWorld(World):
    """Ranks under mpiexec or srun."""

    def __init__(self, comm: Any, device: torch.device, local_rank: int, local_size: int, threads: int, timeout: float):
        super().__init__(device, threads)
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self._arrivals = _Arrivals(comm)
        self.local_rank, self.local_size, self.main = local_rank, local_size, comm.rank == 0
        self._join(timeout)
        self._self_test()

    def describe(self) -> str:
        hosts = len(set(self.comm.allgather(socket.gethostname())))
        return (
            f"{self.size} ranks on {hosts} host(s), rank 0 on {_device_name(self.device)}, "
            f"{self.threads} CPU thread(s) a rank"
        )

    def _join(self, timeout: float) -> None:
        import torch.distributed as dist

        limit = timedelta(seconds=timeout)
        address = self._address()
        if address == "127.0.0.1":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = port = None
        if self.main:
            store = dist.TCPStore(address, 0, self.size, is_master=True, timeout=limit, wait_for_workers=False)
            port = store.port
        port = self.comm.bcast(port)
        if not self.main:
            store = dist.TCPStore(address, port, self.size, is_master=False, timeout=limit)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=limit)
        self._dist, self._timeout = dist, timeout
        hosts = self.comm.allgather(socket.gethostname())
        self._watchdog = Watchdog(address, port, self.rank, hosts, timeout, self.abort)
        self.comm.Barrier()
        self._watchdog.start()

    def _address(self) -> str:
        if self.local_size == self.size:
            return "127.0.0.1"
        name = socket.gethostname()
        with contextlib.suppress(OSError):  # then torch resolves the bare name itself, by other means than this one
            found = socket.gethostbyname(name)
            name = name if found.startswith("127.") else found  # Debian maps a host's own name to 127.0.1.1
        return self.comm.bcast(name)

    def _self_test(self) -> None:
        total = self.sum_(torch.tensor([float(self.rank)], dtype=torch.float64, device=self.device)).item()
        if total != self.size * (self.size - 1) / 2:
            raise InputError(
                f"torch.distributed added the ranks of {self.size} processes to {total}: the launch is broken. "
                "Run `hpcme doctor` under the same launcher."
            )

    def sum_(self, x: torch.Tensor) -> torch.Tensor:
        with self._together("sum"):
            self._dist.all_reduce(x)
        return x

    def min_(self, x: torch.Tensor) -> torch.Tensor:
        with self._together("minimum"):
            self._dist.all_reduce(x, op=self._dist.ReduceOp.MIN)
        return x

    def broadcast_(self, x: torch.Tensor) -> torch.Tensor:
        with self._together("broadcast"):
            self._dist.broadcast(x, 0)
        return x

    @contextlib.contextmanager
    def _together(self, what: str) -> Iterator[None]:
        """A collective; what torch.distributed says of ranks that are gone or late becomes a RankError."""
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            raise RankError(
                f"a {what} over the ranks could not be finished on {socket.gethostname()}: another rank is gone, or "
                f"did not arrive within {self._timeout:g} s (run.timeout); this one waited "
                f"{time.monotonic() - began:.1f} s. The same command continues the run from its newest checkpoint "
                f"({str(error).strip().splitlines()[0]})"
            ) from error

    def share(self, value: Any) -> Any:
        return self.comm.bcast(value)

    def gather(self, x: np.ndarray) -> list[np.ndarray] | None:
        return self.comm.gather(x)

    def any(self, flag: bool) -> bool:
        return bool(self.comm.allreduce(int(flag)))

    def raise_together(self, error: HpcmeError | None) -> None:
        _raise_first(self.comm, error)

    def all_arrived(self, seconds: float) -> bool:
        return self._arrivals.all(seconds)

    def abort(self, code: int) -> None:
        _abort(self.comm, code)

    def close(self) -> None:
        if not self._dist.is_initialized():
            return
        self.comm.Barrier()  # the store, which lives in rank 0, outlives every watchdog
        self._watchdog.stop()
        self._dist.destroy_process_group()


def open_world(device: str = "auto", timeout: float = 300.0) -> World:
    """Join the run's ranks and place this one on a device.

    device: 'auto' (CUDA where every rank of the host can have its own GPU, else the CPU), 'cpu' or 'cuda'.
    timeout: seconds after which a collective that not all ranks reached ends the run.
    Raises InputError when the launcher and MPI disagree, or when two ranks would share a GPU.
    """
    launched, _ = launched_size()
    if launched == 1:
        return World(_place(device, 0, 1), set_threads(1))
    comm = _communicator()
    local = comm.Split_type(_mpi().COMM_TYPE_SHARED)
    local_rank, local_size = local.rank, local.size
    local.Free()
    hook = sys.excepthook = _hook_of(comm)
    error = None
    place = torch.device("cpu")
    try:
        place = _place(device, local_rank, local_size)
    except InputError as problem:
        error = problem
    _raise_first(comm, error)
    world = hook.world = MpiWorld(comm, place, local_rank, local_size, set_threads(local_size), timeout)
    sys.excepthook = hook  # torch.distributed wrapped it, and would swallow what it prints
    return world


def agree_on(error: HpcmeError | None) -> None:
    """Raise on all ranks the first rank's error, before there is a world; every rank calls this."""
    if launched_size()[0] > 1:
        _raise_first(_communicator(), error)
    elif error is not None:
        raise error


def mpi_library() -> tuple[bool, str]:
    """(found, its name or what is wrong); does not start MPI in a process that needs none."""
    try:
        import mpi4py

        if launched_size()[0] == 1 and "mpi4py.MPI" not in sys.modules:
            mpi4py.rc.initialize = False
        return True, _library(_mpi())
    except (ImportError, RuntimeError) as problem:
        return False, f"none can be loaded ({problem})"


def _mpi() -> Any:
    """The module mpi4py.MPI; its first import starts MPI."""
    with warnings.catch_warnings():
        # What it suspects is what `_communicator` tests, and tells with the fix.
        warnings.filterwarnings("ignore", "suspicious MPI execution environment", RuntimeWarning)
        from mpi4py import MPI
    return MPI


def _library(mpi: Any) -> str:
    return " ".join(mpi.Get_library_version().split("\n")[0].split("\0")[0].split())[:60]


def _communicator() -> Any:
    """MPI's world. Raises InputError where it is not what the launcher started."""
    launched, launcher = launched_size()
    try:
        mpi = _mpi()
    except (ImportError, RuntimeError) as problem:
        raise InputError(
            f"started as {launched} ranks by {launcher}, but MPI can not be loaded: {problem}. "
            "Install one as a wheel: pip install mpich"
        ) from None
    if mpi.COMM_WORLD.size == 1:
        raise InputError(
            f"started as {launched} ranks by {launcher}, but MPI ({_library(mpi)}) "
            "sees only this process: launcher and MPI library do not fit together. Use the mpiexec that came with the "
            "library, or srun --mpi=pmi2 for MPICH and srun --mpi=pmix for Open MPI; `hpcme doctor` tells more."
        )
    return mpi.COMM_WORLD


def _raise_first(comm: Any, error: HpcmeError | None) -> None:
    """Raise on all ranks the first rank's error, if one has any."""
    first = next((e for e in comm.allgather(error) if e is not None), None)
    if first is not None:
        raise first


class _Arrivals:
    """A barrier with patience, on a communicator of its own: other ranks may still wait in a collective."""

    def __init__(self, comm: Any) -> None:
        self._comm, self._request = comm.Dup(), None

    def all(self, seconds: float) -> bool:
        """True when every rank calls this within `seconds`; after False, another call goes on waiting."""
        self._request = self._request or self._comm.Ibarrier()
        deadline = time.monotonic() + seconds
        while not self._request.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        self._request = None
        return True


def _abort(comm: Any, code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(1.0)  # mpiexec drops what it has not yet read when a rank aborts
    comm.Abort(code)


def _place(device: str, local_rank: int, local_size: int) -> torch.device:
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and gpus == 0):
        return torch.device("cpu")
    if gpus == 0:
        raise InputError('run.device = "cuda", but torch sees no GPU here. Allowed: "auto", "cpu", "cuda".')
    if local_size > gpus:
        raise InputError(
            f"{local_size} ranks on this host share {gpus} GPU(s); NCCL needs one GPU a rank. Start {gpus} rank(s) "
            'a host, ask Slurm for more with --gpus-per-node, or set run.device = "cpu".'
        )
    place = torch.device("cuda", local_rank)
    torch.cuda.set_device(place)
    return place


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def _hook_of(comm: Any) -> Callable[[type, BaseException, Any], None]:
    """An exception that nobody catches ends the job by the rule of hpcme.parallel.ending, for scripts of users too."""
    arrivals = _Arrivals(comm)

    def hook(kind: type, value: BaseException, trace: Any) -> None:
        everybody = arrivals.all(PATIENCE)
        if isinstance(value, HpcmeError):
            text, code = explain(value, "" if everybody else f" on rank {comm.rank} of {comm.size}")
        else:
            text = "".join(traceback.format_exception(kind, value, trace)).rstrip()
            code = 130 if isinstance(value, KeyboardInterrupt) else 70
            if not everybody:
                text = f"hpcme: rank {comm.rank} of {comm.size} on {socket.gethostname()} failed:\n{text}"
        if everybody:
            say_once(text)
            if hook.world is not None:
                hook.world.close()
            raise SystemExit(code)  # Python ends with this code when the hook raises it
        sys.stderr.write(text + "\n")
        _abort(comm, code)

    hook.world = None  # what has to be closed, once there is one
    return hook
