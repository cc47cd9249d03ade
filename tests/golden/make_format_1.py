"""Makes the stored samples of format 1: python tests/golden/make_format_1.py FOLDER

They are kept as they were made. A later Everstep has to read these bytes, so they are never made anew; a sample that
is added is made beside and copied in.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "versions"))

from drafts import ArrayTensor

from everstep.contracts import Draft, ParentRef, TensorFile
from everstep.versions import Run, write_annotation
from everstep.versions.pruning import slim

WEIGHTS = "controlnet/diffusion_pytorch_model.safetensors"
OPTIMIZER, AVERAGED, STATE = "training/optimizer.safetensors", "training/ema.safetensors", "training/state.json"
HPARAMS = "base:\n  path: builtin:circles\n  revision: null\noptim:\n  seed: 0\n"
GOOD = 2  # versions of `damaged` that are whole; after them comes one for each kind of damage


def arrays(step: int) -> dict[str, dict[str, np.ndarray]]:
    """The tensors of a version, by file and name: told from its step alone."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3) + step
    return {
        WEIGHTS: {
            "controlnet_cond_embedding.conv_in.weight": weight,
            "conv_in.bias": np.full(3, step, np.float16),
        },
        OPTIMIZER: {
            "conv_in.bias.step": np.array(step, np.float32),
            "conv_in.bias.exp_avg": np.full(3, step / 8, np.float32),
            "count": np.array([step], np.int64),
        },
    }


def averaged(step: int) -> dict[str, np.ndarray]:
    return {"conv_in.bias": np.full(3, step / 2, np.float32)}


def draft(step: int, parent: ParentRef | None = None, is_rich: bool = False) -> Draft:
    """A version with what is always there, or with every optional part too."""
    files = {**arrays(step), **({AVERAGED: averaged(step)} if is_rich else {})}
    facts = {
        "base": {"name": "builtin:circles", "revision": None, "digest": "xxh3-128:0", "family": "sd"},
        "data": {"path": "pairs/", "fingerprint": "f", "held_out": ["a.png", "ü.png"], "skipped": {}},
        "config": {"optim": {"learning_rate": 1e-05, "max_steps": 100}, "keep": {"every": "10 versions"}},
        "libraries": {"torch": "2.13.0"},
    }
    if is_rich:
        facts |= {
            "snapshot": {"arena": "00f1a2b3c4d5e6f7", "generation": 7},
            "started_from": {"run": "other", "version": 4},
            "health": {"loss": 0.25, "gradient_norm": 1.5},
            "from a later minor version": {"unknown": [1, 2.5, None]},
        }
    metadata = {"format": "pt"}
    return Draft(
        step=step,
        images_seen=4 * step,
        reason="rescue" if is_rich else "interval",
        parent=parent,
        tensor_files=[
            TensorFile(path, {n: ArrayTensor(a) for n, a in named.items()}, metadata if path == WEIGHTS else {})
            for path, named in files.items()
        ],
        small_files={
            "hparams.yaml": HPARAMS.encode(),
            "controlnet/config.json": b'{"_class_name": "ControlNetModel"}',
            STATE: json.dumps({"step": step, "images_seen": 4 * step}).encode(),
        },
        facts=facts,
    )


def make_line(folder: Path) -> None:
    """Whole versions: 0 complete, 1 slim, 2 with every optional part and all that can be said of a version."""
    run = Run.create(folder, HPARAMS)
    for step in (0, 300):
        run.commit(draft(step))
    parent = ParentRef(run.name, 1, run.version(1).manifest_digest, {"optim.learning_rate": (1e-5, 5e-6)})
    run.commit(draft(600, parent, is_rich=True))
    slim(run, run.version(1))
    write_annotation(run.layout, 1, scores={"control_gain": 0.125})
    scores = {"control_gain": 0.5, "loss": 0.25}
    write_annotation(run.layout, 2, labels=("good hands", "für Ann"), pinned=True, note="five fingers", scores=scores)


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def change_step(path: Path) -> None:
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "step": facts["step"] + 1}, indent=1))


CRITICAL: dict[str, Callable[[Path], object]] = {
    f"1 of 5 tensors fails its digest (conv_in.bias in {WEIGHTS})": lambda v: flip(v / WEIGHTS, -1),
    f"{WEIGHTS}: has a header that cannot be read": lambda v: flip(v / WEIGHTS, 4000),
    f"{OPTIMIZER}: is missing": lambda v: (v / OPTIMIZER).unlink(),
    f"{STATE}: fails its digest": lambda v: flip(v / STATE, 9),
    "digests.json: fails its digest": lambda v: flip(v / "digests.json", 60),
    "has a manifest that cannot be read": lambda v: (v / "manifest.json").write_bytes(
        (v / "manifest.json").read_bytes()[:400]
    ),
    "has a manifest that does not match its own digest": lambda v: change_step(v / "manifest.json"),
    "holds the manifest of version_0": lambda v: shutil.copy(v.parent / "version_0/manifest.json", v),
}
"""What each of these has to be refused for, and the damage."""


def make_damaged(folder: Path) -> None:
    """Two whole versions, then one for each kind of damage that must be refused."""
    run = Run.create(folder, HPARAMS)
    for number in range(GOOD):
        run.commit(draft(100 * number))
    for damage in CRITICAL.values():
        damage(run.commit(draft(100 * run.next_number())).path)


def make_harmless(folder: Path) -> None:
    """Damage that costs no version: beside the versions, and files in them that no manifest names."""
    run = Run.create(folder, HPARAMS)
    for number in range(2):
        run.commit(draft(100 * number))
    (run.version(0).path / "my notes.txt").write_text("mine")
    (run.version(0).path / "training" / ".DS_Store").write_bytes(b"\0")
    run.layout.annotation(1).write_text('{"labels": ["lost')
    run.layout.live.write_bytes(b"\0\0")
    run.layout.log.write_text(run.layout.log.read_text()[:-40])
    run.layout.readme.unlink()


def make_newer(folder: Path) -> None:
    """A whole version, then one that a later Everstep wrote."""
    run = Run.create(folder, HPARAMS)
    run.commit(draft(0))
    later = run.commit(draft(100)).path / "manifest.json"
    later.write_text(json.dumps({"format": 2, "number": {"of": 1}, "blobs": ["b3:00"]}) + "\n")


def main() -> None:
    """Write all samples into a folder that must not be there yet."""
    folder = Path(sys.argv[1])
    folder.mkdir()
    for name, make in (
        ("line", make_line),
        ("damaged", make_damaged),
        ("harmless", make_harmless),
        ("newer", make_newer),
    ):
        make(folder / name)
        (folder / name / ".prune").unlink(missing_ok=True)
        if (folder / name / ".trash").is_dir():
            (folder / name / ".trash").rmdir()


if __name__ == "__main__":
    main()
