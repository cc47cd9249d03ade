"""Distances between weights, against plain numpy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drafts import WEIGHTS, ArrayTensor, draft

from everstep.contracts import TensorFile
from everstep.errors import DamageFound, UserError
from everstep.evaluation.comparison.distance import CHUNK, distances
from everstep.versions import Run, Version
from everstep.versions.pruning import slim

Arrays = dict[str, np.ndarray]


class Bfloat16(ArrayTensor):
    """Bits of bfloat16 numbers, which numpy does not know."""

    dtype = "BF16"  # type: ignore[assignment]


def commit(run: Run, arrays: Arrays | dict[str, ArrayTensor]) -> Version:
    """A version with these weights, in this order."""
    sources = {name: a if isinstance(a, ArrayTensor) else ArrayTensor(a) for name, a in arrays.items()}
    made = draft(30)
    return run.commit(replace(made, tensor_files=[TensorFile(WEIGHTS, sources), *made.tensor_files[1:]]))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def first_part(name: str) -> str:
    return name.partition(".")[0]


def test_norms_are_those_of_numpy_by_block_and_as_a_whole(run: Run) -> None:
    before = {"a.x": normal(1, 300, CHUNK // 100), "a.y": normal(2, 7), "b.x": normal(3, 5, 5)}
    after = {"a.x": before["a.x"] + 0.01 * normal(4, 300, CHUNK // 100), "a.y": before["a.y"], "b.x": normal(5, 5, 5)}
    (found,) = distances(commit(run, before), [commit(run, after)], first_part)
    assert list(found.blocks) == ["a", "b"]
    block = found.blocks["a"]
    flat = [np.concatenate([each["a.x"].ravel(), each["a.y"]]).astype(np.float64) for each in (before, after)]
    assert block.norm_first == pytest.approx(np.linalg.norm(flat[0]), rel=1e-6)
    assert block.norm_other == pytest.approx(np.linalg.norm(flat[1]), rel=1e-6)
    assert block.norm_difference == pytest.approx(np.linalg.norm(flat[0] - flat[1]), rel=1e-6)
    assert block.relative == pytest.approx(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]), rel=1e-6)
    assert (block.tensors, block.equal) == (2, 1)
    assert found.whole.tensors == 3
    assert found.whole.square_first == pytest.approx(block.square_first + np.square(before["b.x"]).sum())
    assert not found.is_identical


def test_equal_weights_are_identical_and_no_distance_apart(run: Run) -> None:
    arrays = {"a.x": normal(1, 9), "b.x": normal(2, 9)}
    found = distances(commit(run, arrays), [commit(run, arrays), run.find("1")], first_part)
    assert found[0].is_identical
    assert found[0].whole.relative == 0
    assert not found[1].is_identical


def test_halves_are_read_as_numbers(run: Run) -> None:
    whole = normal(1, 1000)
    top = (whole.view(np.uint32) >> 16).astype(np.uint16)
    exact = commit(run, {"a.x": whole})
    half, bits = commit(run, {"a.x": whole.astype(np.float16)}), commit(run, {"a.x": Bfloat16(top)})
    to_half, to_bits = distances(exact, [half, bits], first_part)
    cut = (top.astype(np.uint32) << 16).view(np.float32)
    wanted = np.linalg.norm(whole - whole.astype(np.float16).astype(np.float32)), np.linalg.norm(whole - cut)
    assert to_half.whole.norm_difference == pytest.approx(wanted[0], rel=1e-4)
    assert to_bits.whole.norm_difference == pytest.approx(wanted[1], rel=1e-4)
    assert to_half.whole.equal == to_bits.whole.equal == 0


def test_what_only_one_has_or_has_in_another_shape_is_named_and_not_measured(run: Run) -> None:
    one = commit(run, {"a.same": normal(1, 4), "a.mine": normal(2, 4), "a.bent": normal(3, 4)})
    other = commit(run, {"b.theirs": normal(2, 4), "a.bent": normal(3, 2, 2), "a.same": normal(1, 4)})
    (found,) = distances(one, [other], first_part)
    assert (found.only_first, found.only_other, found.reshaped) == (["a.mine"], ["b.theirs"], ["a.bent"])
    assert found.whole.tensors == found.whole.equal == 1
    assert not found.is_identical


def test_the_order_in_the_files_does_not_matter(run: Run) -> None:
    arrays = {f"a.{n}": normal(n, 50) for n in range(6)}
    turned = dict(reversed(arrays.items()))
    (found,) = distances(commit(run, arrays), [commit(run, turned)], first_part)
    assert found.is_identical
    assert found.whole.tensors == 6


def test_from_zero_there_is_no_ratio(run: Run) -> None:
    (found,) = distances(
        commit(run, {"z.x": np.zeros(5, np.float32)}), [commit(run, {"z.x": normal(1, 5)})], first_part
    )
    assert found.blocks["z"].relative is None
    assert found.blocks["z"].norm_difference > 0


def test_a_damaged_tensor_is_named_wherever_it_is(run: Run) -> None:
    one, other = commit(run, {"a.x": normal(1, 99)}), commit(run, {"a.x": normal(2, 99)})
    path = other.path / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for pair in ((one, other), (other, one)):
        with pytest.raises(DamageFound, match=r"fails its digest in tensor a\.x"):
            distances(pair[0], [pair[1]], first_part)


def test_a_slim_version_can_be_measured_and_one_that_is_gone_is_said_to_be(run: Run, tmp_path: Path) -> None:
    versions = run.versions()
    slim(run, versions[0])
    (found,) = distances(run.find("0"), [versions[1]], first_part)
    assert found.whole.tensors == 3
    versions[0].path.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="was removed meanwhile"):
        distances(versions[0], [versions[1]], first_part)
