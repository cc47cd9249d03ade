"""Which layout a file's names are in, and what each is in ours. Knows names alone."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from everstep.exchange.keys import HOLE, Layout, detect, filled
from everstep.exchange.lllite import LLLITE, is_lllite
from everstep.exchange.sd import CONTROLNET_BARE, CONTROLNET_DIFFUSERS, CONTROLNET_LDM, CONTROLNETS, OTHER
from everstep.models.brought import kind_of_names
from everstep.models.numbers import Place, Refused
from everstep.models.weights import count, listed

MOST_NUMBERS = 24  # of blocks, zero convolutions, layers of a hint encoder
# How a part of a ControlNet is known, where the whole would have more.
BEGINNINGS = (
    (CONTROLNET_LDM, ("control_model.",)),
    (CONTROLNET_DIFFUSERS, ("controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block.")),
    (CONTROLNET_BARE, ("input_hint_block.", "zero_convs.", "middle_block_out.")),
)
WRAPPINGS = ("module.", "_orig_mod.")  # what training on several GPUs, or compiled, puts before every name
OTHERS = {
    "lora_controlnet": "a Control-LoRA: parts of small matrices, to be added to a base's own weights",
    "difference": "a ControlNet as a difference to its base",
    "task_embedding": "a ControlNet of many conditions in one (Union)",
    "control_model.task_embedding": "a ControlNet of many conditions in one (Union)",
    "down_blocks.0.motion_modules.": "a ControlNet for video",
    "lllite_dit_blocks_": "a ControlNet-LLLite for Anima",
}


def unwrapped(tensors: Mapping[str, Place]) -> dict[str, Place]:
    """Without what wraps every name. Raises: Refused if a name comes twice then."""
    found = dict(tensors)
    for wrapping in WRAPPINGS * 2:
        if any(name.startswith(wrapping) for name in found):
            plain = {name.removeprefix(wrapping): place for name, place in found.items()}
            if len(plain) < len(found):
                double = [name for name in found if name.startswith(wrapping) and name.removeprefix(wrapping) in found]
                raise Refused(f"holds {count(double, 'tensor')} twice, with and without {wrapping} ({listed(double)})")
            found = plain
    return found


def layout_of(names: Iterable[str]) -> Layout:
    """Raises: Refused saying what it is, if it is no ControlNet."""
    known = list(names)
    if is_lllite(known):
        return LLLITE
    if other := next((what for start, what in OTHERS.items() if any(name.startswith(start) for name in known)), None):
        raise Refused(f"is {other}, which cannot be trained here")
    assert set(OTHERS) == set(OTHER), "a sentence for each"
    found = detect(CONTROLNETS, dict.fromkeys(known, ()))
    if len(found) > 1:
        raise Refused(f"holds a ControlNet twice: in {' and in '.join(layout.name for layout in found)}")
    if found:
        return found[0]
    for layout, beginnings in BEGINNINGS:
        if any(name.startswith(beginnings) for name in known):
            return layout
    kind = kind_of_names(known)
    raise Refused(f"is {kind}, not a ControlNet" if kind else f"holds no ControlNet: its tensors are {listed(known)}")


def our_names(layout: Layout, names: Iterable[str]) -> dict[str, str]:
    """Their names by ours; those that no rule leads to are left out."""
    theirs = list(names)
    if layout is LLLITE:
        return {name: name for name in theirs}
    beginnings = dict(_beginnings(layout, theirs))
    found = {}
    for name in theirs:
        ends = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        longest = next((end for end in reversed(ends) if name[:end] in beginnings), None)
        if longest is not None:
            found[beginnings[name[:longest]] + name[longest:]] = name
    return found


def _beginnings(layout: Layout, names: list[str]) -> Iterator[tuple[str, str]]:
    """What a name of theirs begins with, and what ours does, for every number that there may be."""
    counts = _counts(layout, names)
    for rule in layout.rules:
        ours = rule.our_patterns[0]
        letters = sorted({hole for hole in HOLE.findall(ours) if len(hole) == 1})
        ranges = [range(counts["L"] if letter == "j" else MOST_NUMBERS) for letter in letters]
        for numbers in product(*ranges):
            holes = {**counts, **dict(zip(letters, numbers, strict=True)), "rest": ""}
            yield layout.prefix + filled(rule.theirs, holes), filled(ours, holes)


def _counts(layout: Layout, names: list[str]) -> dict[str, int]:
    """Layers of a block, and of the hint encoder between its ends, by their numbers."""
    blocks, hints, steps = [0], [2], []
    for name in names:
        parts = name.removeprefix(layout.prefix).split(".")
        if len(parts) > 2 and parts[1].isdecimal() and len(parts[1]) < 4:
            number = int(parts[1])
            blocks += [number] * (parts[0] == "input_blocks")
            hints += [number] * (parts[0] == "input_hint_block")
            steps += [number] * (parts[0] == "input_blocks" and parts[2:4] == ["0", "op"])
    return {"L": max(1, min(steps) - 1 if steps else max(blocks)), "H": max(hints) // 2 - 1}
