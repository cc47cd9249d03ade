"""A user's own model is taken whatever its batch and size; what is pickled, missing or of another kind is refused."""

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from torch._export.serde.schema import SCHEMA_VERSION

from everstep.errors import UserError
from everstep.models.exported import ExportedNetwork
from everstep.models.extractors import open_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return networks.export(tmp_path_factory.mktemp("programs") / "brightness.pt2", networks.brightness)


def pictures(count: int, height: int = 40, width: int = 40) -> list[np.ndarray]:
    """Slow gradients, which stay what they are when resized."""
    down, across = np.mgrid[0:height, 0:width]
    ramp = 255 * (down / height + across / width) / 2
    return [np.repeat((ramp * (1 + i) / count).astype(np.uint8)[:, :, None], 3, axis=2) for i in range(count)]


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize(("batch", "side_px"), [(None, None), (2, None), (1, 32), (4, 24)])
def test_a_program_of_any_batch_and_size_maps_all_pictures_at_their_own(batch, side_px, count, tmp_path):
    path = networks.export(tmp_path / "some.pt2", networks.brightness, batch, side_px)
    some = pictures(count)
    found = open_extractor("lineart", str(path), CPU)(some)
    expected = np.stack(some)[:, None, :, :, 0] / 255
    assert found.shape == (count, 1, 40, 40)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6 if side_px is None else 0.02)


def test_maps_smaller_than_the_picture_are_brought_to_its_size(tmp_path):
    path = networks.export(tmp_path / "half.pt2", lambda x: torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2))
    found = open_extractor("depth", str(path), CPU)(pictures(2, 32, 48))
    np.testing.assert_allclose(found.numpy(), np.stack(pictures(2, 32, 48))[:, None, :, :, 0] / 255, atol=0.02)


def test_a_program_with_constants_inside_is_taken(tmp_path):
    path = networks.export(tmp_path / "some.pt2", lambda x: x.mean(1, keepdim=True) - torch.tensor([0.25, 0.5])[1])
    assert any(name.endswith("data/constants/tensor_0") for name in zipfile.ZipFile(path).namelist())
    found = open_extractor("depth", str(path), CPU)(pictures(2))
    np.testing.assert_allclose(found.numpy(), np.stack(pictures(2))[:, None, :, :, 0] / 255 - 0.5, atol=1e-6)


def test_no_gradients_are_kept(program):
    assert not open_extractor("depth", str(program), CPU)(pictures(2)).requires_grad


# --- nothing is unpickled ----------------------------------------------------------------------------------


class Trap:
    """Leaves a file where it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def rewritten(source: Path, path: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes]) -> Path:
    """A copy of an archive with parts changed, (name inside, bytes) -> bytes, and with more parts."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            root, _, name = info.filename.partition("/")
            new.writestr(info.filename, change(name, old.read(info)))
        for name, content in more.items():
            new.writestr(f"{root}/{name}", content)
    return path


def edited(content: bytes, edit: Callable[[dict], None]) -> bytes:
    parsed = json.loads(content)
    edit(parsed["config"])
    return json.dumps(parsed).encode()


def traps(sprung: Path) -> dict[str, tuple[Callable[[str, bytes], bytes], dict[str, bytes]]]:
    """Each way in which PyTorch can be made to unpickle: changes of parts, and more parts."""
    saved = io.BytesIO()
    torch.save(Trap(sprung), saved)
    weights, constants = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
    opaque = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    def weight(name: str, content: bytes) -> bytes:
        if name == weights:
            return edited(content, lambda config: next(iter(config.values())).update(use_pickle=True))
        return saved.getvalue() if name == "data/weights/weight_0" else content

    def sample(name: str, content: bytes) -> bytes:
        return saved.getvalue() if name == "data/sample_inputs/model.pt" else content

    def constant(name: str, content: bytes) -> bytes:
        return edited(content, lambda config: config.update(opaque=opaque)) if name == constants else content

    more = {"data/constants/opaque_obj_0": pickle.dumps(Trap(sprung))}
    return {"weight": (weight, {}), "sample": (sample, {}), "constant": (constant, more)}


@pytest.mark.parametrize("place", ["weight", "sample", "constant"])
def test_a_program_with_a_pickle_inside_is_refused_before_it_acts(place, program, tmp_path):
    sprung = tmp_path / "sprung"
    path = rewritten(program, tmp_path / "trapped.pt2", *traps(sprung)[place])
    with pytest.raises(UserError, match="never loaded"):
        ExportedNetwork(path, CPU)
    assert not sprung.exists()
    with contextlib.suppress(Exception):  # the trap is real: PyTorch alone walks into it
        torch.export.load(path)
    assert sprung.exists()


def test_a_program_that_is_also_one_of_the_old_pickled_format_is_refused(program, tmp_path):
    """PyTorch reads the old parts of a file where it fails on the new ones; here a weight is missing."""
    path, sprung, saved = tmp_path / "both.pt2", tmp_path / "sprung", io.BytesIO()
    torch.save(Trap(sprung), saved)
    parts = ("serialized_state_dict.pt", "serialized_constants.pt", "serialized_example_inputs.pt")
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("models/model.json"):
                new.writestr("serialized_exported_program.json", content)
            if not info.filename.endswith("weight_1"):
                new.writestr(info.filename, content)
        new.writestr("version", ".".join(str(number) for number in SCHEMA_VERSION))
        for name in parts:
            new.writestr(name, saved.getvalue())
    with pytest.raises(UserError, match=r"cannot be read as an exported program.*not in a subdirectory"):
        ExportedNetwork(path, CPU)
    assert not sprung.exists()
    with contextlib.suppress(Exception):  # the trap is real
        torch.export.load(path)
    assert sprung.exists()


def test_a_checkpoint_is_refused_by_its_name_and_a_folder_without_safetensors_by_its_content(tmp_path):
    (tmp_path / "hed.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"hed\.pth.*Pickled files .* are never loaded"):
        open_extractor("softedge", str(tmp_path / "hed.pth"), CPU)
    folder = networks.write_dpt(tmp_path / "dpt")
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no model for depth that transformers can read"):
        open_extractor("depth", str(folder), CPU)


# --- what does not fit -------------------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"scoring\.extractor is gone\.pt2, which does not exist"):
        open_extractor("depth", "gone.pt2", CPU)


def test_a_file_that_is_no_program_is_refused(tmp_path):
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(UserError, match="cannot be read as an exported program"):
        open_extractor("depth", str(tmp_path / "text.pt2"), CPU)


def test_a_program_of_another_kind_is_refused(program, tmp_path):
    with pytest.raises(UserError, match="one channel; segmentation needs the logits"):
        open_extractor("segmentation", str(program), CPU)
    logits = networks.export(tmp_path / "logits.pt2", networks.same)
    with pytest.raises(UserError, match="gives 3 channels; depth needs one map"):
        open_extractor("depth", str(logits), CPU)
    flat = networks.export(tmp_path / "flat.pt2", lambda x: x.mean(dim=(2, 3)))
    with pytest.raises(UserError, match=r"maps .* wanted is \[B,3,H,W\] to \[B,C,H,W\]"):
        open_extractor("depth", str(flat), CPU)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    depth, classes = networks.write_dpt(tmp_path / "dpt"), networks.write_segformer(tmp_path / "segformer")
    with pytest.raises(UserError, match="transformers has no models for lineart"):
        open_extractor("lineart", str(depth), CPU)
    with pytest.raises(UserError, match="no model for depth that transformers can read"):
        open_extractor("depth", str(classes), CPU)
    with pytest.raises(UserError, match=r"lacks weights for segmentation|no model for segmentation"):
        open_extractor("segmentation", str(depth), CPU)


def test_a_folder_with_weights_missing_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = networks.write_dpt(tmp_path / "dpt")
    weights = load_file(folder / "model.safetensors")
    del weights["head.head.0.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights for depth \(first: head\.head\.0\.weight\)"):
        open_extractor("depth", str(folder), CPU)
