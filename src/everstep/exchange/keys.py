"""A layout: rules for how another program names a network's tensors. One table, read both ways.

Over a plan, the names and shapes that a network has in diffusers' words, the rules become a bijection: pairs of
names, each with an operation. Whatever is left over on either side, or named twice, is an error. Knows no network.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from everstep.errors import UserError
from everstep.exchange.operations import Join, Operation, Same, Shape

Plan = Mapping[str, Shape]
Numbers = dict[str, int]
HOLE = re.compile(r"\{([^}]*)\}")
WORD = re.compile(r"[a-z_]{2,}")  # a hole of several letters holds text; one of a letter, a number
ARITHMETIC = {ast.Add: int.__add__, ast.Sub: int.__sub__, ast.Mult: int.__mul__}
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """Some of our tensors, and where they are in the other layout.

    Holes in our names are `{i}` for a number and `{rest}` for text; in theirs, sums and products of the numbers, and
    of the layout's counts: `input_blocks.{(L + 1) * i + j + 1}.0.{rest}`.
    """

    ours: str | tuple[str, ...]
    theirs: str
    operation: Operation = field(default_factory=Same)
    beside: str | None = None  # the rule is for those beside which our tensor of this name is
    without: str | None = None  # or is not

    @property
    def our_patterns(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True, slots=True)
class Link:
    """Tensors of ours that are one of theirs."""

    ours: tuple[str, ...]
    theirs: str
    operation: Operation
    our_shapes: tuple[Shape, ...]

    @property
    def their_shape(self) -> Shape:
        return self.operation.shapes(self.our_shapes)[0]


@dataclass(frozen=True, slots=True)
class Layout:
    """One program's names for one network.

    Args:
        network: whose tensors they are: controlnet, unet, vae, text_encoder, text_encoder_2.
        prefix: what all their names begin with in a file.
        told_by: names, without the prefix, that a file in this layout has, all of them.
        not_by: beginnings of names, as they are in the file, that make it something else.
        counts: letters for use in holes; each is one more than the greatest `n` of our names of this pattern.
        unused: patterns of their names, without the prefix, that hold nothing of the network.
    """

    name: str
    network: str
    prefix: str
    told_by: tuple[str, ...]
    rules: tuple[Rule, ...]
    not_by: tuple[str, ...] = ()
    counts: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def is_of(self, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names holds a network in this layout."""
        known = set(names)
        if not all(self.prefix + name in known for name in self.told_by):
            return False
        if not any(name.startswith(self.prefix) for name in known):
            return False
        return not any(name.startswith(self.not_by) for name in known)

    def own(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Of a file with more in it, what is of this network, without what holds nothing of it."""
        unused = [re.compile(re.escape(self.prefix) + pattern) for pattern in self.unused]
        return {
            name: tensor
            for name, tensor in tensors.items()
            if name.startswith(self.prefix) and not any(pattern.fullmatch(name) for pattern in unused)
        }

    def expand(self, plan: Plan) -> "Bijection":
        """Raises: UserError naming what no rule knows, or two rules claim."""
        counts = {letter: _count(pattern, plan) for letter, pattern in self.counts.items()}
        links = tuple(link for rule in self.rules for link in self._links(rule, plan, counts))
        _refuse(
            f"{self.name} has no place for all of this network",
            missing=_without(plan, (name for link in links for name in link.ours)),
            double=[*_doubled(name for link in links for name in link.ours), *_doubled(link.theirs for link in links)],
        )
        return Bijection(self, links)

    def _links(self, rule: Rule, plan: Plan, counts: Numbers) -> Iterator[Link]:
        first = _pattern(rule.our_patterns[0])
        for name in plan:
            if (found := first.fullmatch(name)) is None:
                continue
            holes = {key: int(text) if len(key) == 1 else text for key, text in found.groupdict().items()}
            if rule.beside is not None and filled(rule.beside, holes) not in plan:
                continue
            if rule.without is not None and filled(rule.without, holes) in plan:
                continue
            ours = tuple(filled(pattern, holes) for pattern in rule.our_patterns)
            if absent := [part for part in ours if part not in plan]:
                _refuse(f"{self.name} joins what this network has not", missing=absent)
            theirs = self.prefix + filled(rule.theirs, {**counts, **holes})
            yield Link(ours, theirs, rule.operation, tuple(tuple(plan[part]) for part in ours))


@dataclass(frozen=True, slots=True)
class Bijection:
    """A layout over one network: which tensor is which, both ways."""

    layout: Layout
    links: tuple[Link, ...]

    def their_shapes(self) -> dict[str, Shape]:
        """Names and shapes of a file in this layout."""
        return {link.theirs: link.their_shape for link in self.links}

    def our_shapes(self) -> dict[str, Shape]:
        """The plan again, in the order of the rules."""
        return {n: s for link in self.links for n, s in zip(link.ours, link.our_shapes, strict=True)}

    def forward(self, tensors: Mapping[str, Any], join: Join | None = None) -> dict[str, Any]:
        """From diffusers' names into this layout. Arrays of numpy or torch; nothing is copied but what is joined.

        Args:
            join: torch.cat or numpy.concatenate; needed for text encoders alone.

        Raises: UserError with the names, if they are not the plan's.
        """
        _refuse_other(f"What is written as {self.layout.name}", self.our_shapes(), tensors)
        found: dict[str, Any] = {}
        for link in self.links:
            [found[link.theirs]] = link.operation.forward([tensors[name] for name in link.ours], join or _no_join)
        return found

    def back(self, tensors: Mapping[str, Any], join: Join | None = None) -> dict[str, Any]:
        """From this layout into diffusers' names; of a file with more in it, `layout.own` is what to give.

        Raises: UserError with the names, if any is missing, too much or of another shape.
        """
        _refuse_other(f"What is read as {self.layout.name}", self.their_shapes(), tensors)
        found: dict[str, Any] = {}
        for link in self.links:
            parts = link.operation.back([tensors[link.theirs]], link.our_shapes, join or _no_join)
            found |= zip(link.ours, parts, strict=True)
        return found


def detect(layouts: Sequence[Layout], shapes: Mapping[str, Shape]) -> list[Layout]:
    """Every layout that a file with these tensors holds a network in; a whole base holds several."""
    return [layout for layout in layouts if layout.is_of(shapes)]


def _no_join(parts: list[Any], axis: int) -> Any:
    raise TypeError("tensors are joined in this layout: torch.cat or numpy.concatenate is needed")


# --- holes -------------------------------------------------------------------------------------------------


@cache
def _pattern(ours: str) -> re.Pattern[str]:
    """Our names with their holes, as an expression; a hole that comes twice holds the same."""
    parts, end, seen = [], 0, set[str]()
    for hole in HOLE.finditer(ours):
        parts.append(re.escape(ours[end : hole.start()]))
        name, end = hole[1], hole.end()
        kind = ".+" if WORD.fullmatch(name) else r"\d+"
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{kind})")
        seen.add(name)
    return re.compile("".join(parts) + re.escape(ours[end:]))


def filled(pattern: str, holes: Mapping[str, int | str]) -> str:
    return HOLE.sub(lambda hole: str(_value(ast.parse(hole[1], mode="eval").body, holes)), pattern)


def _value(node: ast.expr, holes: Mapping[str, int | str]) -> Any:
    if isinstance(node, ast.BinOp):
        return ARITHMETIC[type(node.op)](_value(node.left, holes), _value(node.right, holes))
    if isinstance(node, ast.Name):
        return holes[node.id]
    assert isinstance(node, ast.Constant), f"neither number nor letter: {ast.dump(node)}"
    return node.value


def _count(pattern: str, plan: Plan) -> int:
    found = (_pattern(pattern).fullmatch(name) for name in plan)
    return 1 + max((int(match["n"]) for match in found if match is not None), default=-1)


# --- what does not fit -------------------------------------------------------------------------------------


def _without(names: Iterable[str], known: Iterable[str]) -> list[str]:
    there = set(known)
    return [name for name in names if name not in there]


def _doubled(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def _refuse_other(what: str, expected: Mapping[str, Shape], found: Mapping[str, Any]) -> None:
    """Arrays are looked at for their shape; shapes alone stand for themselves."""
    shapes = {name: tuple(getattr(tensor, "shape", tensor)) for name, tensor in found.items()}
    other = [name for name in expected if name in shapes and shapes[name] != expected[name]]
    _refuse(
        f"{what} has other tensors",
        missing=_without(expected, shapes),
        surplus=_without(shapes, expected),
        misshapen=[f"{name} is {_dims(shapes[name])}, not {_dims(expected[name])}" for name in other],
    )


def _refuse(what: str, **faults: list[str]) -> None:
    words = {"missing": "missing", "surplus": "too many", "double": "named twice", "misshapen": "of another shape"}
    said = [f"{len(names):,} {words[fault]} ({_listed(names)})" for fault, names in faults.items() if names]
    if said:
        raise UserError(f"{what}: {'; '.join(said)}.")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(name[:120] for name in names[:SHOWN]) + more


def _dims(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"
