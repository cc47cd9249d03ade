"""Imports go down only, deferred ones too; and what must not know torch does not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "everstep"
LEVELS = {
    "errors": 0,
    "contracts": 0,
    "config": 1,
    "versions": 1,
    "models": 2,
    "data": 2,
    "evaluation": 3,
    "train": 4,
    "cli": 5,
}
TORCH_FREE = ("config", "versions", "data", "cli")
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem in LEVELS)


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_from_lower_levels_only(path: Path) -> None:
    mine = room(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "everstep" or len(parts) < 2 or parts[1].startswith("_"):
            continue
        theirs = parts[1]
        assert theirs == mine or LEVELS[theirs] < LEVELS[mine], f"{mine} imports {name}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room(p) in TORCH_FREE], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_config_versions_data_and_verbs_name_no_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"torch", "diffusers", "transformers"}


@pytest.mark.parametrize(
    "verb", ["--help", "list a", "plan circles", "status a", "show a@0", "verify a", "train --help", "resume --help"]
)
def test_verbs_that_only_look_do_not_load_torch(verb: str, tmp_path: Path) -> None:
    from everstep.config import dump, resolve
    from everstep.versions import Run

    Run.create(tmp_path / "runs" / "a", dump(resolve(None, {})))
    asked = (
        "import sys; from everstep.cli.main import run; run(sys.argv[1:]);"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", asked, *verb.split()], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_files_stay_small() -> None:
    assert {path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > 350} == {}
