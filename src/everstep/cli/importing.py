"""everstep import"""

from pathlib import Path

from everstep.arrival.bringing import bring, in_words
from everstep.arrival.folder import check_target
from everstep.arrival.receipt import lines
from everstep.cli.printing import beside, print_json
from everstep.models.base import locate
from everstep.places import as_word, refuse_unwritable, shortened

UNDONE = "Nothing was written."


def import_(
    source: str,
    *,
    out: Path,
    base: str | None = None,
    partial: bool = False,
    force: bool = False,
    json: bool = False,
) -> int:
    """Take over a ControlNet that another program made, as a folder that diffusers loads; nothing in it is run.

    Parameters
    ----------
    source
        A file (.safetensors, .pth, .pt, .ckpt, .bin), a folder, or OWNER/NAME on the hub.
    out
        The folder to make; its receipt.json says what was taken, and what was not.
    base
        The base that it is for: checked against it, and asked where shapes alone do not tell.
    partial
        Take what fits; what is missing begins as the base does.
    force
        Replace what is there.
    json
        Print the receipt.
    """
    with in_words(f"--out {shortened(out)}", UNDONE):
        check_target(out, force)
    refuse_unwritable("--out", out / "config.json" if out.is_dir() else out, UNDONE)
    found = None if base is None else locate(base)
    with beside(f"Reading {source}"):
        receipt = bring(source, out, found, partial, source, UNDONE)
    if json:
        print_json(receipt)
        return 0
    print("\n".join(lines(receipt)))
    print(f"Written to {out} and read back. Train from it: everstep train --from {as_word(out)}")
    return 0
