"""A user's own network as an exported program, the `.pt2` of torch.export.save: read, checked, run at any size.

A file with anything pickled in it is refused before PyTorch sees it. An exported program is a program all the same:
it should come from somebody who is trusted.
"""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.export.pt2_archive import PT2ArchiveReader
from torch.nn.functional import interpolate

from everstep.contracts import Uint8Array
from everstep.errors import UserError

# Parts of an archive that are numbers or JSON. Left out on purpose: custom objects (pickled) and compiled code.
PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json|extra/.+"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
PAYLOADS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
SAMPLE = "data/sample_inputs/model.pt"
EXPORT = "torch.export.save writes one from a network that takes pictures [B,3,H,W] of values 0..1"
Gives = Literal["[B,C,H,W]", "[B,D]"]


class ExportedNetwork:
    """A network on pictures of any number and size: where the program's batch or size is fixed, it is adapted to."""

    def __init__(self, path: Path, device: torch.device, gives: Gives = "[B,C,H,W]") -> None:
        """Raises: UserError if the file cannot be used, gives something else, or has pickled parts."""
        _refuse_pickles(path)
        try:
            program = move_to_device_pass(torch.export.load(path), str(device))
        except Exception as error:
            raise UserError(f"{path} cannot be read as an exported program ({_first_line(error)}). {EXPORT}.") from None
        inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
        shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if hasattr(_val(node), "shape")}
        taken, given = (shapes.get(str(names[0])) if len(names) == 1 else None for names in (inputs, outputs))
        axes = gives.count(",") + 1
        if taken is None or given is None or len(taken) != 4 or taken[1] != 3 or len(given) != axes:
            raise UserError(f"{path} maps {taken} to {given}; wanted is [B,3,H,W] to {gives}. {EXPORT}.")
        self.channels: object = given[1]
        self._batch, _, *self._size = [n if isinstance(n, int) else None for n in taken]
        self._module: nn.Module = program.module()

    def maps(self, pixels_B3HW: Tensor) -> Tensor:
        """Shapes: [B,3,H,W] uint8 -> [B,C,H,W] float32, always of the pictures' size."""
        return _resized(self(pixels_B3HW), pixels_B3HW.shape[-2:])

    def __call__(self, pixels_B3HW: Tensor) -> Tensor:
        """Shapes: [B,3,H,W] uint8 -> what the program gives, [B,C,h,w] or [B,D] float32."""
        size = [wanted or found for wanted, found in zip(self._size, pixels_B3HW.shape[-2:], strict=True)]
        fitting_B3HW = _resized(pixels_B3HW.float() / 255, size)
        parts = torch.split(fitting_B3HW, self._batch or len(fitting_B3HW))
        return torch.cat([self._run(part_B3HW) for part_B3HW in parts])

    def _run(self, part_B3HW: Tensor) -> Tensor:
        count = len(part_B3HW)
        missing = (self._batch or count) - count
        filled_B3HW = torch.cat([part_B3HW, part_B3HW[-1:].expand(missing, -1, -1, -1)])
        mapped: Tensor = self._module(filled_B3HW)[:count]
        return mapped.float()


def pixels(pictures: Sequence[Uint8Array], device: torch.device) -> Tensor:
    """Shapes: B pictures [H,W,3] uint8 -> [B,3,H,W] uint8."""
    return torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2)


def _resized(map_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear; what is made smaller is averaged."""
    if list(map_BCHW.shape[-2:]) == list(size):
        return map_BCHW
    return interpolate(map_BCHW, size=list(size), mode="bilinear", align_corners=False, antialias=True)


def _refuse_pickles(path: Path) -> None:
    """PyTorch unpickles freely what it cannot read otherwise; so each part must be one that it can.

    The reader itself refuses parts outside of the one folder, and so the format before 2.8, which was all pickles.
    """
    try:
        reader = PT2ArchiveReader(str(path))
        names = reader.get_file_names()
        odd = [name for name in names if not PLAIN.fullmatch(name) and name not in (*PAYLOADS, SAMPLE)]
        for name in PAYLOADS:
            entries = json.loads(reader.read_string(name))["config"].values()
            odd += [f"{name}: {entry['path_name']}" for entry in entries if entry["use_pickle"] is not False]
        torch.load(io.BytesIO(reader.read_bytes(SAMPLE)), weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{path} holds a pickled object among its sample inputs, which is never loaded. {EXPORT}."
        ) from None
    except Exception as error:
        raise UserError(f"{path} cannot be read as an exported program ({_first_line(error)}). {EXPORT}.") from None
    if odd:
        raise UserError(f"{path} holds a part that is never loaded, as it may be pickled ({odd[0]}). {EXPORT}.")


def _val(node: torch.fx.Node) -> object:
    return node.meta.get("val")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
