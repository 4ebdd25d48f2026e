"""Which order of the species a network holds best, and what "auto" chooses; run by hand, never by the test suite.

    python tests/benchmarks/orders.py [NAME ...]   jobs of jobs/ and networks of below; default: all, about an hour

Fits the network that `hpcme run` would use to the exact law at a quarter of the horizon and at its end, for every
order and two draws of its hidden units. One line per system: the total variation distance (the larger one of the two
times, the mean of the draws) of the best and worst order, of all orders (geometric mean), of the model's and of auto's.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

import hpcme
from hpcme.beginning import network_of
from hpcme.dynamics.start import fit_heads, marginals
from hpcme.exact.fsp import solve_fsp
from hpcme.exact.shorttime import short_time_law
from hpcme.model.job import Job
from hpcme.model.ordering import species_order
from hpcme.networks.build import build_network

JOBS = Path(__file__).parents[2] / "jobs"
NAMES = (
    "gene_expression", "gene_expression_bursts", "autoregulation", "autoregulation_2", "autoregulation_3",
    "toggle_switch_long", "early_life_small", "early_life", "early_life_large", "epidemic_strong",
)  # fmt: skip
#: Small networks: end; initial and largest counts; reactions, mass action unless their rate reads a species.
NETWORKS = {
    "telegraph": (20.0, "G 0 1, r 0 15, p 0 49", [
        ("0 -> G", "0.1*(1 - G)"), ("G -> 0", 0.2), ("G -> G + r", 2.0), ("r -> 0", 0.5), ("r -> r + p", 1.0),
        ("p -> 0", 0.2)]),
    "activator": (10.0, "T 0 24, G 0 1, r 0 24", [
        ("0 -> T", 3.0), ("T -> 0", 0.3), ("0 -> G", "0.04*T*(1 - G)"), ("G -> 0", 0.3), ("G -> G + r", 6.0),
        ("r -> 0", 0.6)]),
    "dimer": (20.0, "G 1 1, r 0 7, P 0 24, D 0 9", [
        ("G -> G + r", 1.0), ("r -> 0", 0.5), ("r -> r + P", 2.0), ("P -> 0", 0.3), ("2 P -> D", 0.02),
        ("D -> 2 P", 0.3), ("D + G -> 0", 0.1), ("0 -> D + G", "0.2*(1 - G)")]),
    "exclusive": (20.0, "Gx 1 1, Px 0 29, Gy 1 1, Py 0 29", [
        ("Gx -> Gx + Px", 10.0), ("Gy -> Gy + Py", 10.0), ("Px -> 0", 0.7), ("Py -> 0", 0.7),
        ("2 Px + Gy -> 0", 0.005), ("2 Py + Gx -> 0", 0.005), ("0 -> 2 Px + Gy", "0.2*(1 - Gy)"),
        ("0 -> 2 Py + Gx", "0.2*(1 - Gx)")]),
    "repressilator": (8.0, "A 0 17, B 5 17, C 0 17", [
        ("0 -> A", "10/(1 + (C/3)**2)"), ("0 -> B", "10/(1 + (A/3)**2)"), ("0 -> C", "10/(1 + (B/3)**2)"),
        ("A -> 0", 1.0), ("B -> 0", 1.0), ("C -> 0", 1.0)]),
    "gene_cascade": (8.0, "A 0 17, B 0 17, C 0 17", [
        ("0 -> A", 3.0), ("A -> A + B", "8*A**2/(16 + A**2)"), ("B -> B + C", "8*B**2/(16 + B**2)"), ("A -> 0", 0.6),
        ("B -> 0", 1.0), ("C -> 0", 1.0)]),
    "catalytic_cascade": (10.0, "X1 0 9, X2 0 9, X3 0 9, X4 0 9", [
        ("0 -> X1", 1.0), ("X1 -> X1 + X2", "3*X1/(5 + X1)"), ("X2 -> X2 + X3", "3*X2/(5 + X2)"),
        ("X3 -> X3 + X4", "3*X3/(5 + X3)"), ("X1 -> 0", 0.5), ("X2 -> 0", 0.5), ("X3 -> 0", 0.5), ("X4 -> 0", 0.5)]),
    "feedback_cascade": (5.0, "X1 0 10, X2 0 9, X3 0 9, X4 0 10", [
        ("0 -> X1", "0.5 + 40/(2 + X4**2)"), ("X1 -> X2", 2.0), ("X2 -> X3", 2.0), ("X3 -> X4", 2.0), ("X1 -> 0", 1.0),
        ("X2 -> 0", 1.0), ("X3 -> 0", 1.0), ("X4 -> 0", 1.0)]),
    "bursts": (10.0, "r 0 15, p 0 29, q 0 29", [
        ("0 -> r", 0.5), ("r -> 0", 1.0), ("r -> r + p", 5.0), ("p -> 0", 0.4), ("p -> q", 0.4), ("q -> 0", 0.4)]),
    "titration": (10.0, "r 0 29, s 0 29, p 0 29", [
        ("0 -> r", 3.0), ("0 -> s", 2.5), ("r + s -> 0", 0.2), ("r -> 0", 0.2), ("s -> 0", 0.2), ("r -> r + p", 1.0),
        ("p -> 0", 0.5)]),
    "binding": (8.0, "L 10 25, R 0 15, C 0 15", [
        ("0 -> R", 1.5), ("R -> 0", 0.3), ("0 -> L", 2.0), ("L -> 0", 0.2), ("L + R -> C", 0.1), ("C -> L + R", 0.3),
        ("C -> 0", 0.4)]),
    "enzyme": (10.0, "E 5 5, S 30 30, C 0 5, P 0 30", [
        ("E + S -> C", 0.05), ("C -> E + S", 0.2), ("C -> E + P", 0.3)]),
    "open_enzyme": (30.0, "E 3 3, S 5 30, C 0 3, P 0 25", [
        ("E + S -> C", 0.05), ("C -> E + S", 0.2), ("C -> E + P", 0.3), ("0 -> S", 1.0), ("P -> 0", 0.2)]),
    "isomers": (8.0, "A 30 30, B 0 30, C 0 30", [("2 A -> A + B", 0.01), ("B -> A", 0.3), ("B -> C", 0.2)]),
    "sir": (15.0, "S 40 40, I 3 43, R 0 43", [("S + I -> 2 I", 0.01), ("I -> R", 0.1)]),
    "sirs": (10.0, "S 25 30, I 5 30, R 0 30", [
        ("S + I -> 2 I", 0.03), ("I -> R", 0.3), ("R -> S", 0.2), ("S -> 0", 0.02), ("I -> 0", 0.05),
        ("R -> 0", 0.02)]),
    "predator": (3.0, "X 20 59, Y 15 59", [("X -> 2 X", 1.0), ("X + Y -> 2 Y", 0.05), ("Y -> 0", 1.0)]),
    "brusselator": (6.0, "X 3 29, Y 5 39", [
        ("0 -> X", 4.0), ("X -> Y", 1.5), ("2 X + Y -> 3 X", 0.01), ("X -> 0", 0.6)]),
}  # fmt: skip
_LEAST = 1e-10  # states of less probability are left out of the fits
_EXACT_ENOUGH = 1e-4  # distances below this are all the same


def job_of(name: str, order: list[str] | str = "auto") -> Job:
    """The job of a name, with an order of its species."""
    overrides = {"network.order": order}
    if name in NAMES:
        return hpcme.load_job(JOBS / f"{name}.toml", overrides=overrides)
    end, species, reactions = NETWORKS[name]
    lines = ["[model]", f'name = "{name}"', "[species]"]
    for words in species.split(", "):
        label, initial, most = words.split()
        lines.append(f"{label} = {{ initial = {initial}, max = {most} }}")
    for equation, rate in reactions:
        key = "propensity" if isinstance(rate, str) else "rate"
        lines += ["[[reactions]]", f'equation = "{equation}"', f'{key} = "{rate}"']
    return hpcme.load_job({"model": "\n".join(lines), "time": {"end": end}}, overrides=overrides)


def measured(name: str, seeds: tuple[int, ...] = (0, 1)) -> dict[tuple[str, ...], float]:
    """Total variation distance of the best network by order of the species."""
    job = job_of(name)
    net = job.net
    times = [0.25 * float(job.report_times[-1]), float(job.report_times[-1])]
    exact = solve_fsp(net, times, reflecting=True)
    _, states, p, _ = short_time_law(
        net, jumps=3.0, t_max=float(job.report_times[1]), max_states=job["solver.start_states"]
    )
    start = marginals(states, p, net.limits)  # what decides the heads
    found = {}
    for order in itertools.permutations(net.species):
        spec = network_of(job_of(name, list(order)), start)
        distances = np.zeros((len(seeds), len(times)))
        for i, seed in enumerate(seeds):
            for k, law in enumerate(exact.p):
                seen = law > _LEAST
                network = build_network(spec, net, seed=seed)
                network.set_marginals(marginals(exact.states[seen], law[seen], net.limits))
                _, distances[i, k] = fit_heads(network, exact.states[seen], law[seen], iterations=100)
        found[order] = max(_EXACT_ENOUGH, float(distances.mean(axis=0).max()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*NAMES, *NETWORKS))}")
    torch.set_num_threads(1)
    print("| system | best | TV | worst | TV | all | model's | TV | auto's | TV |\n|" + "---|" * 10)
    for name in parser.parse_args().names or (*NAMES, *NETWORKS):
        found, net = measured(name), job_of(name).net
        shown = []
        for order in (min(found, key=found.get), max(found, key=found.get), None, net.species, species_order(net)):
            if order is None:
                shown.append(f"{np.exp(np.mean(np.log(list(found.values())))):.5f}")
            else:
                shown += [" ".join(order), f"{found[tuple(order)]:.5f}"]
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
