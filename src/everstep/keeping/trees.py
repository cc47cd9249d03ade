"""State dicts of any kind taken apart into tensors and JSON, and put together again.

Optimizers, schedulers, scalers and loaders keep dicts, lists, tuples, numbers and tensors in each other; tensors go
into a file of their own under the path to them, everything else is JSON that refers to them.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everstep.errors import UserError
from everstep.versions.torch import DTYPE_NAMES

TENSOR, ARRAY, TUPLE, PAIRS, COUNTER, BYTES = MARKS = (
    *("__tensor__", "__array__", "__tuple__"),
    *("__pairs__", "__counter__", "__bytes__"),
)


def take_apart(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Returns JSON, and puts tensors into the mapping. Raises: UserError naming what can be neither."""
    if isinstance(tree, Tensor):
        return {TENSOR: _put(tree, path, tensors)}
    if isinstance(tree, Mapping):
        return _mapping(tree, path, tensors)
    if isinstance(tree, list | tuple):
        items = [take_apart(item, f"{path}.{number}", tensors) for number, item in enumerate(tree)]
        return {TUPLE: items} if isinstance(tree, tuple) else items
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, bytes):
        return {BYTES: tree.hex()}
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biuf":
        return {ARRAY: _put(torch.from_numpy(np.array(tree)), path, tensors)}
    raise UserError(f"{path} is a {type(tree).__name__}, which can be kept neither as a tensor nor as JSON.")


def _mapping(tree: Mapping[Any, Any], path: str, tensors: dict[str, Tensor]) -> Any:
    if all(isinstance(key, str) and key not in MARKS for key in tree) and not isinstance(tree, Counter):
        return {key: take_apart(value, f"{path}.{key}", tensors) for key, value in tree.items()}
    # JSON knows no keys but strings: parameters are numbered, schedulers count steps.
    mark = COUNTER if isinstance(tree, Counter) else PAIRS
    pairs = (
        (take_apart(key, path, tensors), take_apart(value, f"{path}.{key}", tensors)) for key, value in tree.items()
    )
    return {mark: [list(pair) for pair in pairs]}


def _put(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """Under its path, or under one of its own where two paths are spelled alike: {"a.b": ..., "a": {"b": ...}}."""
    check_kind(tensor, path)
    while path in tensors:
        path += "'"
    tensors[path] = tensor
    return path


def check_kind(tensor: Tensor, name: str) -> None:
    """Raises: UserError for a tensor that no file of a version can hold."""
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPE_NAMES or tensor.device.type == "meta":
        kind = str(tensor.dtype if tensor.layout is torch.strided else tensor.layout).removeprefix("torch.")
        where = " without memory" if tensor.device.type == "meta" else ""
        raise UserError(f"{name} is a {kind} tensor{where}, which no version can hold.")


def put_together(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was taken apart."""
    if isinstance(tree, list):
        return [put_together(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    mark = next(iter(tree), None)
    if mark not in MARKS:
        return {key: put_together(value, tensors) for key, value in tree.items()}
    held = tree[mark]
    if mark in (TENSOR, ARRAY):
        return tensors[held] if mark == TENSOR else tensors[held].numpy()
    if mark == BYTES:
        return bytes.fromhex(held)
    if mark == TUPLE:
        return tuple(put_together(item, tensors) for item in held)
    pairs = {put_together(key, tensors): put_together(value, tensors) for key, value in held}
    return Counter(pairs) if mark == COUNTER else pairs
