"""What of a finding becomes a ControlNet in our names: each tensor's place, what lacks, what is too much."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everstep.arrival.described import described, of_base, shapes_of_config
from everstep.arrival.filling import beginning_of
from everstep.arrival.finding import Finding
from everstep.arrival.names import layout_of, our_names
from everstep.errors import UserError
from everstep.exchange.architecture import kind_of
from everstep.exchange.keys import Layout, Link
from everstep.exchange.lllite import LLLITE, lllite_shapes, sizes_of
from everstep.models.base import BaseFolder
from everstep.models.controls import LITE, lllite_config, lllite_shapes_of
from everstep.models.foreign import check_numbers, reading
from everstep.models.numbers import Place, Refused
from everstep.models.parts import unet_shapes
from everstep.models.weights import count, listed, unlike
from everstep.models.whole import SDXL

if TYPE_CHECKING:
    import numpy as np

_XL_UNET = unet_shapes(SDXL.parts["unet"]) or {}
PARTIAL = "everstep import FILE --partial --base BASE --out FOLDER takes what fits, and begins the rest as BASE does."


@dataclass(frozen=True, slots=True)
class Taken:
    """A ControlNet that is described, and not yet read.

    Args:
        shapes: every tensor of it, in the order of the network's parameters.
        links: which of theirs each is; what is not among them begins as the base does.
        surplus: names there that are of the network, but have no place in it.
        others: names there that are of something else.
    """

    finding: Finding
    layout: Layout
    kind: str | None
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    links: Mapping[str, Link]
    surplus: tuple[str, ...]
    others: tuple[str, ...]
    base: BaseFolder | None

    @property
    def begun(self) -> list[str]:
        """What begins as the base does."""
        return [name for name in self.shapes if name not in self.links]

    def arrays(self) -> Iterator[tuple[str, "np.ndarray[Any, np.dtype[np.float32]]"]]:
        """Every tensor in floats of 32 bits, read as it is asked for. Raises: Refused if one is no number; OSError."""
        import numpy as np

        for name, shape in self.shapes.items():
            if (link := self.links.get(name)) is None:
                assert self.base is not None, "only what has a base is partial"
                yield name, beginning_of(name, shape, self.base)
                continue
            file, place = self.finding.tensors[link.theirs]
            with reading(file) as (opened, _):
                theirs = place.read(opened)
            if not np.isfinite(theirs).all():
                raise Refused(
                    f"holds what is no finite number in 32 bits (first: {link.theirs})",
                    "It was damaged, or came out of a training that diverged; another copy is needed.",
                )
            parts = link.operation.back([theirs], link.our_shapes, lambda parts, axis: np.concatenate(parts, axis))
            yield name, np.ascontiguousarray(parts[link.ours.index(name)])


def take(finding: Finding, base: BaseFolder | None = None, is_partial: bool = False) -> Taken:
    """Raises: Refused with the names that are missing, too many or of another shape."""
    layout = layout_of(finding.places)
    own: Mapping[str, Place] = layout.own(finding.places)
    if layout is LLLITE:
        return _take_lllite(finding, own, base, is_partial)
    theirs = our_names(layout, own)
    plan = {name: own[there].shape for name, there in theirs.items()}
    unet = None if base is None else base.config("unet")
    if is_partial:
        if base is None:
            raise Refused("can be taken in part only for a base", "--base names the one that it is for.")
        config = of_base(base)
    else:
        config = described(plan, unet if unet is not None else finding.config)
    shapes = shapes_of_config(config)
    unplaced = [name for name in own if name not in set(theirs.values())]
    wrong = unlike(shapes, plan)
    if unplaced:
        wrong = "; ".join(
            filter(None, [wrong, f"{count(unplaced, 'tensor')} that no ControlNet has ({listed(unplaced)})"])
        )
    if wrong and not is_partial:
        raise Refused(f"is no whole ControlNet in {layout.name}: {wrong}", PARTIAL)
    if base is not None and not is_partial:
        _refuse_other_base(base, config, plan)
    fitting = [name for name in shapes if plan.get(name) == shapes[name]]
    if not fitting:
        raise Refused(f"has no tensor that a ControlNet for this base would have: {wrong}")
    links = {name: link for name, link in _links(layout, shapes).items() if name in set(fitting)}
    check_numbers({link.theirs: own[link.theirs] for link in links.values()})
    surplus = [*unplaced, *(there for name, there in theirs.items() if name not in links)]
    others = [name for name in finding.tensors if name not in own]
    return Taken(finding, layout, kind_of(plan) if not wrong else None, config, shapes, links,
                 tuple(surplus), tuple(others), base)  # fmt: skip


def _take_lllite(finding: Finding, own: Mapping[str, Place], base: BaseFolder | None, is_partial: bool) -> Taken:
    if is_partial:
        raise Refused("is a ControlNet-LLLite, of which nothing begins as a base does: it is taken whole or not at all")
    if base is not None and LITE not in base.row.sizes:
        raise Refused(f"is a ControlNet-LLLite, which are for SDXL; {base.name} is {base.row.title}")
    plan = {name: place.shape for name, place in own.items()}
    try:
        sizes = sizes_of(plan)
        shapes = lllite_shapes(_XL_UNET, *sizes) if base is None else lllite_shapes_of(base, *sizes)
    except UserError as fault:
        raise Refused(f"cannot be taken: {str(fault).split('. ')[0]}") from None
    if wrong := unlike(shapes, plan):
        of = "SDXL" if base is None else base.name
        advice = "--base names the base that it is for, if that is another." if base is None else ""
        raise Refused(f"is no whole ControlNet-LLLite for {of}: {wrong}", advice)
    links = _links(LLLITE, shapes)
    check_numbers({link.theirs: own[link.theirs] for link in links.values()})
    others = tuple(name for name in finding.tensors if name not in own)
    return Taken(finding, LLLITE, kind_of(plan), lllite_config(*sizes), shapes, links, (), others, base)


def _links(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Link]:
    return {name: link for link in layout.expand(shapes).links for name in link.ours}


def _refuse_other_base(base: BaseFolder, config: Mapping[str, Any], plan: Mapping[str, tuple[int, ...]]) -> None:
    """Its blocks are added to the base's: they have to be as wide."""
    theirs = of_base(base) | {
        key: config[key] for key in ("conditioning_channels", "conditioning_embedding_out_channels", "mid_block_type")
    }
    if other := unlike(shapes_of_config(theirs), plan):
        raise Refused(f"was not made for {base.name}: {other}")
