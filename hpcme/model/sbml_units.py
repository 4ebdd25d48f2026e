"""Units of SBML, as far as they say whether amounts are counts."""

from __future__ import annotations

from typing import Any

_COUNTS = {"", "item", "dimensionless"}


def definition(model: Any, unit: str) -> Any:
    """The unit definition with this id, or None."""
    return model.getUnitDefinition(unit) if unit else None


def counts_things(model: Any, unit: str) -> bool:
    """Whether an amount in this unit is a plain count: item, dimensionless, not given, or a definition of them."""
    found = definition(model, unit)
    if found is None:
        return unit in _COUNTS
    for i in range(found.getNumUnits()):
        part = found.getUnit(i)
        scale = part.getMultiplier() * 10.0 ** part.getScale()
        if not (part.isItem() or part.isDimensionless()) or abs(scale - 1) > 1e-12:
            return False
    return True


def time_unit(model: Any) -> str:
    """Name of the unit of time; "1" where none is given."""
    if model.getLevel() == 2:
        unit = "time" if definition(model, "time") is not None else "second"
    else:
        unit = model.getTimeUnits()
    found = definition(model, unit)
    if found is None:
        return unit if unit and unit != "dimensionless" else "1"
    if found.getNumUnits() == 1:
        part = found.getUnit(0)
        if part.isSecond() and part.getMultiplier() * 10.0 ** part.getScale() == 1:
            return "second"
    return found.getName() or (unit if unit != "time" else "as the file defines")
