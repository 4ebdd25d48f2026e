"""A large results.h5 with made-up reports, and how many of its bytes are read: for a test and for a benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hpcme.store.files import Manifest
from hpcme.store.identity import manifest_of
from hpcme.store.layout import Report
from hpcme.store.results import Content, write_results
from hpcme.store.seal import SealedFile


def large_run(
    folder: Path, times: int, samples: int, species: int, limit: int = 99, weights: int = 4000
) -> Path:
    """Write folder/results.h5: counts like those of a cell (Poisson laws with means 0.1 to 60), a network of `weights`
    float32 parameters per report. Reports are made when asked for, so memory does not grow with their number."""
    names = [f"X{i}" for i in range(species)]
    text = '[model]\nname = "large"\n[species]\n'
    text += "".join(f"{name} = {{ initial = 0, max = {limit} }}\n" for name in names)
    text += "".join(f'[[reactions]]\nequation = "0 -> {n}"\nrate = 1.0\n' for n in names)
    manifest: Manifest = manifest_of({
        "kind": "network", "model_text": text, "model_hash": "m", "job_text": "{}", "job_hash": "j", "species": names,
        "limits": [limit] * species, "report_times": [float(k) for k in range(times)], "units": "1",
    })  # fmt: skip
    mean = np.geomspace(0.1, 60.0, species)

    def report(k: int) -> Report:
        rng = np.random.default_rng(k)
        n = rng.poisson(mean * (k + 1) / times, (samples, species)).clip(max=limit).astype(np.int32)
        marginals = [np.bincount(n[:, i], minlength=limit + 1) / samples for i in range(species)]
        covariance = np.cov(n[:1000].T) if species > 1 else np.array([[n.var()]])
        return Report(
            index=k, time=float(k), step=k, samples=n, weights=None,
            mean=n.mean(axis=0), mean_se=n.std(axis=0) / samples,
            covariance=covariance, covariance_se=np.abs(covariance) / samples, sd_se=n.std(axis=0) / samples,
            marginals=marginals, marginals_se=[np.sqrt(p * (1 - p) / samples) for p in marginals],
            network={"spec": '{"kind": "initial"}', "parameters": {"a": rng.random(weights, dtype=np.float32)}},
            extra={"entropy": float(k)},
        )  # fmt: skip

    series = {"t": np.arange(20.0 * times), "dt": np.ones(20 * times)}
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, manifest, Content(times, report, series))
    return folder / "results.h5"


@contextmanager
def bytes_read() -> Iterator[list[int]]:
    """Sizes of all pieces that are read from sealed files meanwhile: every byte of a results.h5 passes there."""
    found: list[int] = []
    real = SealedFile._at

    def counted(self, start, size):
        data = real(self, start, size)
        found.append(len(data))
        return data

    SealedFile._at = counted
    try:
        yield found
    finally:
        SealedFile._at = real
