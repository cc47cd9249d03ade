"""Imports go down only, deferred ones too; and what must not know torch does not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from everstep.config.load import dump, resolve
from everstep.versions import Run

SOURCE = Path(__file__).parents[1] / "src" / "everstep"
# The house: a package imports from lower floors only, never from another on its own, in functions too.
FLOORS = {
    8: ("cli",),
    7: ("launch",),
    6: ("train", "delivery"),
    5: ("evaluation", "arrival"),
    4: ("models", "adapters", "watching"),
    3: ("config", "records", "keeping", "exchange", "encoded", "mirror"),
    2: ("versions", "data"),
    1: ("places", "plain_files", "heap", "stamps", "priority"),
    0: ("errors", "contracts", "units", "telling", "letters"),
}
FLOOR_OF = {package: floor for floor, packages in FLOORS.items() for package in packages}

# Packages that name PyTorch or lead to it, and the single files of others that do; no __init__ is among them.
TORCH_PACKAGES = ("adapters", "models", "evaluation", "train", "delivery")
TORCH_FILES = (
    "versions/torch.py",
    "keeping/copier.py",
    "keeping/copying.py",
    "keeping/followers.py",
    "keeping/generators.py",
    "keeping/kept.py",
    "keeping/loop.py",
    "keeping/others.py",
    "keeping/parts.py",
    "keeping/trees.py",
    "keeping/saver.py",
    "keeping/sealing.py",
    "keeping/snapshots.py",
    "keeping/team.py",
    "keeping/stateful.py",
)
TORCH = {"torch", "diffusers", "transformers", "safetensors"}

MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem in FLOOR_OF)


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_package_stands_on_a_floor() -> None:
    assert {room(path) for path in SOURCE.rglob("*.py") if path.parent != SOURCE} <= set(FLOOR_OF)


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
        assert theirs == mine or FLOOR_OF[theirs] < FLOOR_OF[mine], f"{mine} imports {name}"


def may_name_torch(path: Path) -> bool:
    place = str(path.relative_to(SOURCE))
    return (room(path) in TORCH_PACKAGES and path.name != "__init__.py") or place in TORCH_FILES


@pytest.mark.parametrize(
    "path", [p for p in MODULES if not may_name_torch(p)], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_only_the_files_of_the_table_name_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & TORCH
    leads_to = {name.removeprefix("everstep.").replace(".", "/") + ".py" for name in imported(path)}
    assert not leads_to & set(TORCH_FILES) or room(path) in ("train", "launch", "cli"), f"{path} leads to PyTorch"


@pytest.mark.parametrize(
    "verb",
    ["--help", "list a", "plan circles --quick", "status a", "show a@0", "verify a", "train --help", "resume --help"],
)
def test_verbs_that_only_look_do_not_load_torch(verb: str, tmp_path: Path) -> None:
    Run.create(tmp_path / "runs" / "a", dump(resolve(None, {})))
    asked = (
        "import sys; from everstep.cli.main import run; run(sys.argv[1:]);"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", asked, *verb.split()], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_mirror_is_sent_without_what_reads_settings(run: Run, tmp_path: Path) -> None:
    """Every version starts a process that sends it, beside a training that has its processors busy."""
    asked = (
        "import sys; from everstep.cli.main import run; assert run(sys.argv[1:]) == 0;"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'yaml') if name in sys.modules])"
    )
    words = [sys.executable, "-c", asked, "mirror", "send", str(run.path), str(tmp_path), "--keep", "last 2"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_files_stay_small() -> None:
    assert {path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > 350} == {}


@pytest.mark.parametrize("verb", ["list r", "prune r --dry-run", "prune r", "verify r", "pin r@1", "slim r@1"])
def test_verbs_that_look_at_versions_load_neither_torch_nor_numpy(run: Run, verb: str) -> None:
    run.replace_hparams(dump(resolve(None, {})))  # the run of a training of ours, whose settings are read
    run.tell_best_score("control_gain")
    asked = (
        "import sys; from everstep.cli.main import run; assert run(sys.argv[1:]) == 0;"
        "print([name for name in ('torch', 'numpy', 'PIL', 'rich') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", asked, *verb.split()],
        cwd=run.path.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "[]"


# A family is one file in models/, one row in its registry, one table in exchange/.
FAMILIES = ("sd", "sdxl", "unet")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_but_the_registry_names_a_family(path: Path) -> None:
    if room(path) == "models" and path.stem in FAMILIES:
        return
    assert not imported(path) & {f"everstep.models.{name}" for name in FAMILIES}
