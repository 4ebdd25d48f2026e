"""What the time loop knows of a scheme: what one step did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Advance:
    """One accepted step of a scheme.

    dt: its length; leak: rate of leaving the limits over it; row: numbers for the series. defect: what the step adds to
    the total variation distance from the exact law at most, where the scheme knows; None leaves it to the certificate.
    """

    dt: float
    leak: float
    row: dict[str, float]
    defect: float | None = None
