"""Which network: accuracy against parameters and time; run by hand, never by the test suite.

    python tests/benchmarks/networks.py toggle [--widths 16 32 48]     joint TV of jobs/toggle_switch_long.toml
    python tests/benchmarks/networks.py cascade [--samples 1500]      KL of jobs/cascade_linear.toml to t = 3

One line per network: its width, parameters of the heads (those that move), the worst error of all report times, and CPU
seconds of the whole run, the start included.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

import hpcme
from hpcme.analysis.compare import compare
from hpcme.driver import prepare, shards_of
from hpcme.dynamics.tangent import HeadParameters
from hpcme.parallel.world import open_world

JOBS = Path(__file__).parents[2] / "jobs"
sys.path.insert(0, str(JOBS))
from reproduce import Poisson, against_poisson  # noqa: E402

KINDS = ("basis", "gru", "made", "nade", "transformer")


def toggle(run) -> float:
    """Worst joint total variation to the exact law."""
    return max(compare(run, "exact")["joint"]["tv"])


def cascade(run) -> float:
    """Worst KL(exact, network), from samples of the exact law within the limits."""
    law = Poisson(run)
    return max(against_poisson(run, law, float(t))["kl"] for t in run.times[1:])


def moving(job) -> int:
    """Parameters of the heads."""
    world = open_world("cpu")
    return HeadParameters(prepare(job, world, shards_of(job, world)).scheme.network).size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["toggle", "cascade"])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 48])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--samples", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    job, error, keys = {
        "toggle": ("toggle_switch_long", toggle, {}),
        "cascade": (
            "cascade_linear",
            cascade,
            {"sampling.samples": options.samples, "time.end": 3.0, "time.report": [0.35, 1.0, 2.0, 3.0]},
        ),
    }[options.system]
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            for width in options.widths:
                began = time.process_time()
                overrides = {**keys, "network.kind": kind, "network.width": width}
                loaded = hpcme.load_job(JOBS / f"{job}.toml", overrides=overrides)
                run = hpcme.solve(loaded, out=Path(folder) / f"{kind}{width}")
                seconds = time.process_time() - began
                print(
                    f"{kind:12s} width {width:3d}  {moving(loaded):6d} parameters  error {error(run):.2g}  "
                    f"{seconds:6.1f} s", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
