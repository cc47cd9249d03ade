"""Whatever stands in a base's configs and headers, looking at it ends at once, in a sentence or in a base."""

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everstep.errors import UserError
from everstep.models.base import locate
from everstep.models.one_file import open_one_file
from everstep.models.survey import survey
from everstep.models.weights import file_shapes
from one_file import one_file, small

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([10**30, 10**400, -(10**9), 2**63]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["DownBlock2D", "CrossAttnDownBlock2D", "AutoencoderTiny", "\ud800", "../x"]),
)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner), max_leaves=6
)
CONFIGS = (
    *("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"),
    *("tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json", "tokenizer/vocab.json"),
    *("model_index.json",),
)
QUICK = settings(max_examples=60, deadline=5000, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def spoilt(tiny_base: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield shutil.copytree(tiny_base, Path(folder) / "base")


def look(folder: Path) -> None:
    """Either it is a base, or the message is a person's."""
    try:
        base = survey(locate(str(folder)))
        base.native_resolution(), base.vae_factor(), base.digest()
    except UserError as error:
        assert str(error)


@QUICK
@given(data=st.data())
def test_any_value_of_any_key(data: st.DataObject, spoilt: Path) -> None:
    path = spoilt / data.draw(st.sampled_from(CONFIGS))
    before = path.read_bytes()
    parsed = json.loads(before)
    for key in data.draw(st.lists(st.sampled_from(sorted(parsed)), min_size=1, max_size=3, unique=True)):
        if data.draw(st.booleans()):
            parsed[key] = data.draw(JUNK)
        else:
            del parsed[key]
    try:
        path.write_text(json.dumps(parsed))
        look(spoilt)
    finally:
        path.write_bytes(before)


@QUICK
@given(file=st.sampled_from((*CONFIGS, "tokenizer/merges.txt")), content=st.binary(max_size=40) | JUNK)
def test_any_content_of_a_config(file: str, content: object, spoilt: Path) -> None:
    path = spoilt / file
    before = path.read_bytes()
    try:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        look(spoilt)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{}", b"9" * 10_000, b"\0"])
def test_what_breaks_parsers(content: bytes, spoilt: Path) -> None:
    path = spoilt / "unet/config.json"
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"unet/config\.json"):
            survey(locate(str(spoilt)))
    finally:
        path.write_bytes(before)


PLACE = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "Q4", "", "f32"]) | JUNK,
        "shape": st.lists(st.integers(-2, 4) | st.just(10**30), max_size=3) | JUNK,
        "data_offsets": st.lists(st.integers(-4, 64), min_size=2, max_size=2) | JUNK,
    }
)
HEADERS = st.dictionaries(st.text(max_size=5), PLACE | JUNK, max_size=4)


@QUICK
@given(table=HEADERS, data=st.binary(max_size=64), off_by=st.sampled_from([0, 0, 0, 1, -1, 2**40, 2**63 - 1]))
def test_any_header(table: dict[str, object], data: bytes, off_by: int) -> None:
    text = json.dumps(table).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(struct.pack("<Q", max(0, len(text) + off_by)) + text + data)
        try:
            file_shapes(path)
        except UserError as error:
            assert "x.safetensors" in str(error)


@QUICK
@given(content=st.binary(max_size=80), suffix=st.sampled_from([".safetensors", ".bin", ".ckpt"]))
def test_any_bytes_as_weights(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        for beginning in (b"", struct.pack("<Q", 40), b"PK\x03\x04", b"\x80\x02"):
            path.write_bytes(beginning + content)
            try:
                file_shapes(path)
            except UserError as error:
                assert path.name in str(error)


@pytest.fixture(scope="module")
def single(tiny_base: Path) -> Iterator[Path]:
    """A base in one file."""
    with tempfile.TemporaryDirectory() as folder:
        yield one_file(tiny_base, Path(folder) / "one.safetensors")


@QUICK
@given(data=st.data())
def test_any_header_of_a_base_in_one_file(data: st.DataObject, single: Path, tiny_base: Path) -> None:
    before = single.read_bytes()
    length = struct.unpack("<Q", before[:8])[0]
    header = json.loads(before[8 : 8 + length])
    header["__metadata__"] = data.draw(JUNK | st.dictionaries(st.sampled_from(SAID), SCALARS, max_size=3))
    for name in data.draw(st.lists(st.sampled_from(sorted(header)), max_size=3, unique=True)):
        change = data.draw(st.sampled_from(["gone", "renamed", "shape", "other"]))
        entry = header.pop(name)
        if change == "renamed":
            header[data.draw(st.text(max_size=8))] = entry
        elif change == "shape" and isinstance(entry, dict):
            header[name] = {**entry, "shape": data.draw(st.lists(SCALARS, max_size=5))}
        elif change == "other":
            header[name] = data.draw(JUNK)
    try:
        text = json.dumps(header).encode()
        single.write_bytes(struct.pack("<Q", len(text)) + text + before[8 + length :])
        open_one_file(single, small(tiny_base))
    except UserError as error:
        assert "Nothing was started." in str(error)
    finally:
        single.write_bytes(before)


SAID = ("modelspec.prediction_type", "modelspec.resolution", "modelspec.title", "ss_v_parameterization")


@QUICK
@given(content=st.binary(max_size=60) | st.text(max_size=40) | JUNK)
def test_any_settings_beside_a_base_in_one_file(content: object, single: Path, tiny_base: Path) -> None:
    beside = single.with_suffix(".yaml")
    text = content if isinstance(content, str) else json.dumps({"model": {"params": content}}, default=str)
    beside.write_bytes(content if isinstance(content, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        open_one_file(single, small(tiny_base))
    except UserError as error:
        assert "Nothing was started." in str(error)
    finally:
        beside.unlink()
