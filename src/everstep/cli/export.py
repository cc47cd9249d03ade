"""everstep export"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from everstep.cli.place import open_version
from everstep.cli.printing import beside, print_json
from everstep.delivery.card import SHEET, card
from everstep.delivery.description import SUFFIX, condition_of, file_name, metadata_of
from everstep.delivery.hub import check_repository, upload
from everstep.errors import DamageFound, UserError
from everstep.exchange.architecture import kind_of
from everstep.exchange.keys import Plan
from everstep.exchange.readers import READERS, Form, Reader
from everstep.models.files import WEIGHTS
from everstep.models.weights import file_shapes
from everstep.places import as_word, here, refuse_unwritable, shortened
from everstep.records.sheets import sheet_path
from everstep.units import size
from everstep.versions import Run, Version, verify
from everstep.versions.reading import reading

UNDONE = "Nothing was written."
IN_A_FOLDER = {"config.json", "diffusion_pytorch_model.safetensors"}


def export_(
    version: str,
    *,
    for_: Annotated[Literal["diffusers", "comfyui", "forge", "a1111", "invokeai"], Parameter(name="--for")],
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16",
    averaged: bool = True,
    condition: str | None = None,
    licence: str | None = None,
    out: Path | None = None,
    force: bool = False,
    push_to_hub: str | None = None,
    json: bool = False,
) -> int:
    """Write a version's ControlNet, its weights alone, as another program takes it; then read it back and compare.

    Parameters
    ----------
    version
        RUN@N, or RUN for its latest version.
    for_
        The program that is to draw with it.
    dtype
        Numbers of 16 bits, as all programs take them, or the version's own 32.
    averaged
        The averaged weights where the version has them.
    condition
        What the condition shows, in the word that programs go by: canny, depth, pose, lineart, softedge, ...
    licence
        Under which licence you hand it out; written into the file.
    out
        File, or folder where the program takes one; left out, a name in the folder that the command runs in.
    force
        Replace what is there.
    push_to_hub
        OWNER/NAME of a repository on the hub, made private if it is not there, which gets it too, with a page.
    json
        Print as JSON.
    """
    run, found = open_version(version)
    reader, word = READERS[for_], condition_of(found, condition)
    with reading(found.path):  # no prune takes it half-way
        plan = _plan(found)
        form = reader.form(plan)
        target = _target(out or Path(file_name(found, plan, word) + ("" if form.is_folder else SUFFIX)), form, force)
        reader.check_name(target.name, word)
        if push_to_hub is not None:
            check_repository(push_to_hub)
        with beside(f"Reading {found.name}, {size(found.disk_bytes)}"):
            if wrong := verify(found):
                others = f"everstep list {as_word(run.path)} shows others."
                raise DamageFound(f"{found.name} is damaged: {wrong[0]}. {UNDONE}\n{others}")
        with beside(f"Writing {target.name} and reading it back"):
            from everstep.delivery.export import export

            done = export(found, plan, form, target, dtype=dtype, averaged=averaged, condition=word, licence=licence)
    address = None
    if push_to_hub is not None:
        metadata = metadata_of(found, plan, form.layout, word, done.is_averaged, licence)
        with beside(f"Uploading {size(done.size_bytes)} to {push_to_hub}"):
            files = _for_the_hub(run, found, metadata, target, push_to_hub)
            address = upload(push_to_hub, files, f"{run.name}@{found.number}")
    told = {"for": for_, "layout": form.layout.name, "family": kind_of(plan), "condition": word, "dtype": dtype}
    if json:
        print_json({**told, **asdict(done), "path": str(target), "hub": address})
        return 0
    left_out = found.disk_bytes - found.slim_bytes
    without = f"; {size(left_out)} of training state are left out" if left_out else ""
    print(f"{found.name} is written to {target}: {done.parameters:,} numbers of {done.bytes_each} bytes, "
          f"{size(done.size_bytes)}{without}.")  # fmt: skip
    print(f"Read back: every tensor is the version's{', averaged' if done.is_averaged else ''}, in {dtype}; "
          f"what it computes differs by {done.difference:.2%}.")  # fmt: skip
    print("\n".join(_advice(reader, kind_of(plan), done.adds_nothing)))
    if address is not None:
        print(f"On the hub: {address}")
    return 0


def _advice(reader: Reader, kind: str | None, adds_nothing: bool) -> list[str]:
    """Where it goes, and what to know there."""
    told = [f"{reader.title}: {'; '.join(reader.way(kind))}."]
    if kind is not None and kind in reader.notes:
        told.append(reader.notes[kind])
    if adds_nothing:
        told.append("It adds nothing yet: its last layers are all zero, so every picture is the base's own.")
    return told


def _for_the_hub(
    run: Run, version: Version, metadata: dict[str, str], target: Path, repository: str
) -> dict[str, Path | bytes]:
    """Files by their path in the repository: a folder's lie at its top, so that diffusers finds them there."""
    sheet = sheet_path(run, version.number)
    names = sorted(IN_A_FOLDER) if target.is_dir() else []
    files: dict[str, Path | bytes] = {name: target / name for name in names} or {target.name: target}
    if sheet.is_file():
        files[SHEET] = sheet
    page = card(run, version, metadata, repository, None if names else target.name, SHEET in files)
    return {**files, "README.md": page.encode()}


def _plan(version: Version) -> Plan:
    """Raises: UserError if the version holds no ControlNet."""
    if WEIGHTS not in version.files:
        raise UserError(f"{version.name} holds no ControlNet: {WEIGHTS} is not among its files. {UNDONE}")
    try:
        shapes = file_shapes(version.path / WEIGHTS)
    except UserError:  # what is wrong with it is found, and named, by reading it whole
        raise DamageFound(f"{version.name} is damaged: {'; '.join(map(str, verify(version)[:1]))}. {UNDONE}") from None
    assert shapes is not None, "safetensors always tell"
    return shapes


def _target(path: Path, form: Form, is_forced: bool) -> Path:
    """Raises: UserError before any work is done, if it cannot be written there, or something is there already."""
    here()  # PyTorch loads from nowhere else
    where = f"--out {shortened(path)}"
    if form.is_folder:
        refuse_unwritable("--out", path / "config.json" if path.is_dir() else path, UNDONE)
        others = sorted({entry.name for entry in path.iterdir()} - IN_A_FOLDER) if path.is_dir() else []
        if others:
            raise UserError(f"{where} holds more than a ControlNet ({others[0]}). {UNDONE} --out names another place.")
    else:
        refuse_unwritable("--out", path, UNDONE)
        if path.suffix != SUFFIX:
            raise UserError(f"{where}: programs go by the end of its name; give it one that ends in {SUFFIX}. {UNDONE}")
    is_kind = path.is_dir() if form.is_folder else path.is_file()
    if path.exists() and not (is_forced and is_kind):
        hint = "--force replaces it, --out names another." if is_kind else "--out names another."
        raise UserError(f"{where} is there already. {UNDONE}\n{hint}")
    return path
