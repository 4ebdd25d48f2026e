"""Python values in HDF5 and back, bit for bit: the checkpoint dictionary and the parameters of a network.

Every item is one dataset under its key ('/' in a key makes groups), with an attribute `type` that says what
it was: array, scalar (a 0-d numpy value), int, float, bool, str. No pickles, no variable-length data.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from hpcme.errors import InternalError

_INT64 = range(-(2**63), 2**63)


def write_items(group: h5py.Group, items: dict[str, Any]) -> None:
    """Write a dictionary into an HDF5 group. Raises InternalError for a key or a value that has no place."""
    for key, value in items.items():
        _check_key(key, items)
        _write_item(group, key, value)


def read_items(group: h5py.Group) -> dict[str, Any]:
    """Read back what write_items wrote: the same keys (sorted), types, shapes and bits."""
    items: dict[str, Any] = {}

    def visit(name: str, node) -> None:
        if isinstance(node, h5py.Dataset):
            items[name] = _read_item(node)

    group.visititems(visit)
    return items


def _check_key(key: str, items: dict[str, Any]) -> None:
    if not isinstance(key, str):
        raise InternalError(f"checkpoint key {key!r} is not a string")
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise InternalError(f"checkpoint key {key!r} has an empty part or a dot as a part")
    for cut in range(1, len(parts)):
        prefix = "/".join(parts[:cut])
        if prefix in items:
            raise InternalError(f'checkpoint keys "{prefix}" and "{key}" cannot both hold values')


def _write_item(group: h5py.Group, key: str, value: Any) -> None:
    if isinstance(value, bool):
        kind, data = "bool", np.uint8(value)
    elif isinstance(value, int):
        # random generators have states beyond 64 bits
        kind, data = ("int", np.int64(value)) if value in _INT64 else ("bigint", _text(str(value)))
    elif isinstance(value, float):
        kind, data = "float", np.float64(value)
    elif isinstance(value, str):
        kind, data = "str", _text(value)
    elif isinstance(value, (np.ndarray, np.generic)):
        kind, data = ("array" if isinstance(value, np.ndarray) else "scalar"), np.asarray(value)
        if data.dtype.kind not in "biufc" or data.dtype.itemsize > 16:
            raise InternalError(f'checkpoint item "{key}" has dtype {data.dtype}, which cannot be stored')
        if data.dtype.kind == "b":
            kind, data = f"bool-{kind}", data.astype(np.uint8)
    else:
        raise InternalError(
            f'checkpoint item "{key}" is a {type(value).__name__}; arrays, numbers and strings only'
        )
    group.create_dataset(key, data=data).attrs["type"] = np.bytes_(kind.encode("ascii"))


def _text(text: str) -> np.ndarray:
    """UTF-8 bytes as an array: fixed-length HDF5 strings would lose trailing NULs and cannot be empty."""
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)


def _read_item(node: h5py.Dataset) -> Any:
    kind = node.attrs["type"].decode("ascii")
    data = node[()]
    if kind == "bool":
        return bool(data)
    if kind == "int":
        return int(data)
    if kind == "float":
        return float(data)
    if kind in ("str", "bigint"):
        text = data.tobytes().decode("utf-8", "surrogatepass")
        return text if kind == "str" else int(text)
    if kind.startswith("bool-"):
        data, kind = data.astype(np.bool_), kind[5:]
    return np.asarray(data) if kind == "array" else data[()]
