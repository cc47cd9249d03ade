"""State dicts of any kind taken apart into tensors and JSON, and put together again.

Optimizers, schedulers, scalers and loaders keep dicts, lists, tuples, numbers and tensors in each other; tensors go
into a file of their own under the path to them, everything else is JSON that refers to them.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from everstep.errors import UserError

TENSOR, TUPLE, PAIRS = "__tensor__", "__tuple__", "__pairs__"


def take_apart(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Returns JSON, and puts tensors into the mapping. Raises: UserError naming what is neither."""
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {TENSOR: path}
    if isinstance(tree, Mapping):
        if all(isinstance(key, str) for key in tree):
            return {key: take_apart(value, f"{path}.{key}", tensors) for key, value in tree.items()}
        return {PAIRS: [[key, take_apart(value, f"{path}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [take_apart(item, f"{path}.{number}", tensors) for number, item in enumerate(tree)]
        return {TUPLE: items} if isinstance(tree, tuple) else items
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if hasattr(tree, "item") and getattr(tree, "ndim", None) == 0:  # a number of numpy's
        return tree.item()
    raise UserError(
        f"{path} is a {type(tree).__name__}, which can be kept neither as a tensor nor as JSON. Nothing was started."
    )


def put_together(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was taken apart."""
    if isinstance(tree, list):
        return [put_together(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if TENSOR in tree:
        return tensors[tree[TENSOR]]
    if TUPLE in tree:
        return tuple(put_together(item, tensors) for item in tree[TUPLE])
    if PAIRS in tree:
        return {key: put_together(value, tensors) for key, value in tree[PAIRS]}
    return {key: put_together(value, tensors) for key, value in tree.items()}
