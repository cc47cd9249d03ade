"""Settings of any shape, from files, assignments and variables: a plan or a sentence, never a trace or a hang."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everstep.cli.main import run
from everstep.cli.variables import variable
from everstep.config.load import known_keys
from everstep.config.schema import Config

FUZZ = settings(
    max_examples=40,
    deadline=5_000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KEYS = known_keys()
ODD = st.sampled_from(
    [
        *("", "null", "~", "off", "no", "1e-5", "1e4", "010", "0x1f", "1:30", "2024-01-01", ".inf", ".nan", "inf"),
        *("-1", "1e999", "9" * 400, "[", "{", "a: b", "*x", "&x", "!!x", "!!int x", "!!timestamp x", "@", "%", "\t"),
        *("300,10min", "10 versions", "50GB", "12h", "1" * 20 + "h", "é", "\ud800", "'", '"', "<<", "---", "\0"),
        *("circles", "~nobody/x", "x" * 300, "a/" * 3000),
    ]
)
WORDS = st.one_of(ODD, st.text(max_size=12))
SCALARS = st.one_of(WORDS, st.none(), st.booleans(), st.integers(), st.floats())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)
SECTIONS = st.dictionaries(st.sampled_from([key.partition(".")[2] for key in KEYS]) | WORDS, VALUES, max_size=4)
FILES = st.dictionaries(st.sampled_from(sorted(Config.model_fields)) | WORDS, VALUES | SECTIONS, max_size=4)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@contextlib.contextmanager
def said() -> Iterator[io.StringIO]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield out


def planned(*words: str) -> None:
    with said() as out:
        code = run(["plan", "--run", "a", "--quick", *words])
    assert code in (0, 1, 2), out.getvalue()
    assert "Traceback" not in out.getvalue()
    assert code != 2 or len(out.getvalue().strip()) > 10
    assert not Path("runs").exists()


@FUZZ
@given(FILES)
def test_files_of_any_content(workplace: Path, content: dict[str, object]) -> None:
    text = yaml.safe_dump(content, allow_unicode=True)
    (workplace / "mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    planned("mine.yaml")


@FUZZ
@given(st.binary(max_size=60) | st.text("abc:-[]{}&*!|>'\"%@#\n\t 019.e~<", max_size=60).map(str.encode))
def test_files_of_any_bytes(workplace: Path, content: bytes) -> None:
    (workplace / "mine.yaml").write_bytes(b"optim: {seed: 3}\n" + content)
    planned("mine.yaml")


@FUZZ
@given(st.lists(st.tuples(st.sampled_from([*KEYS, *Config.model_fields]) | WORDS, WORDS), max_size=3))
def test_assignments(workplace: Path, pairs: list[tuple[str, str]]) -> None:
    planned(*(word for key, value in pairs for word in ("--set", f"{key}={value}")))


@FUZZ
@given(st.sampled_from([*map(variable, KEYS), "EVERSTEP_BASE", "EVERSTEP_OPTIM", "EVERSTEP_X", "EVERSTEP_SET"]), WORDS)
def test_variables(workplace: Path, name: str, value: str) -> None:
    if "\0" in value:
        return
    with contextlib.suppress(UnicodeEncodeError), patch.dict(os.environ, {name: value}):
        planned()
