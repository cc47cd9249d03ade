"""Small versions to commit: real drafts with real tensors, different at every step."""

import numpy as np

from everstep.contracts import Draft, TensorFile

WEIGHTS, OPTIMIZER = "controlnet/weights.safetensors", "training/optimizer.safetensors"


class ArrayTensor:
    """A numpy array as a source of bytes."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def dtype(self) -> str:
        return {"float32": "F32", "int64": "I64", "uint8": "U8", "float16": "F16"}[self.array.dtype.name]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def buffer(self) -> memoryview:
        return self.array.reshape(-1).view(np.uint8).data


def arrays(step: int) -> dict[str, dict[str, np.ndarray]]:
    """The content of a version at a step, by file and name."""
    random = np.random.default_rng(step)
    return {
        WEIGHTS: {
            "a.weight": random.standard_normal((3, 5), dtype=np.float32),
            "b.weight": random.standard_normal((3, 5), dtype=np.float32),
            "c.half": random.standard_normal(7, dtype=np.float32).astype(np.float16),
        },
        OPTIMIZER: {
            "count": np.array([step], dtype=np.int64),
            "moment": random.standard_normal((1000,), dtype=np.float32),
            "scalar": np.array(step, dtype=np.float32),
        },
    }


def draft(step: int, reason: str = "interval") -> Draft:
    files = [TensorFile(path, {n: ArrayTensor(a) for n, a in named.items()}) for path, named in arrays(step).items()]
    return Draft(
        step=step,
        images_seen=4 * step,
        reason=reason,
        parent=None,
        tensor_files=files,
        small_files={"training/state.json": b'{"step": %d}' % step, "hparams.yaml": b"a: 1\n"},
        facts={"config": {"a": 1}},
    )
