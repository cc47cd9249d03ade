"""YAML as people mean it: 1e-5 is a number, off is a word, 1:30 is no number, and a key that is there twice is a slip.

Knows nothing of settings.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from everstep.errors import UserError

MOST_BYTES = 1 << 18  # ours has 4 kB
MOST_NODES, DEEPEST = 5_000, 8  # aliases of aliases would fill memory once they are written out
TEXT, NULL, BOOL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
FLOATS = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
SCALARS = (str, int, float, bool, type(None))
# What the library's constructors raise of what they do not understand.
FAULTS = (yaml.YAMLError, ValueError, AttributeError, TypeError, LookupError, OverflowError, RecursionError)


class Loader(yaml.SafeLoader):
    """Plain words by the core schema of YAML 1.2, without octal numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises: yaml.YAMLError at a key that is no word, or there twice."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key_node.tag != TEXT:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no name", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Decimal, also with leading zeros."""
        return int(self.construct_scalar(node))


Loader.yaml_implicit_resolvers = {}  # those of YAML 1.1 go: yes, no, 0o17, 1:30, dates, <<
Loader.add_constructor(INT, Loader.construct_yaml_int)
Loader.add_implicit_resolver(NULL, re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
Loader.add_implicit_resolver(BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))
Loader.add_implicit_resolver(INT, re.compile(r"[-+]?[0-9][0-9_]*\Z"), list("-+0123456789"))
Loader.add_implicit_resolver(FLOAT, FLOATS, list("-+0123456789."))


class Dumper(yaml.SafeDumper):
    """Quotes every word that this reader, or another one, would take for something else."""


Dumper.add_implicit_resolver(FLOAT, FLOATS, list("-+0123456789."))


def read(path: Path) -> Any:
    """What is in a file. Raises: UserError with the line that is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Nothing was started.") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} is larger than any file of settings ({MOST_BYTES:,} bytes). Nothing was started.")
    try:
        return parse(content.decode("utf-8-sig"))
    except FAULTS as error:
        raise UserError(f"{path} is not YAML that can be read: {why(error)}. Nothing was started.") from None


def parse(text: str) -> Any:
    """Of words, numbers, lists and tables alone. Raises: one of FAULTS."""
    parsed = yaml.load(text, Loader)  # a SafeLoader
    _count(parsed, 0, 0)
    return parsed


def dump(settings: Any) -> str:
    return yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def why(error: Exception) -> str:
    """In one line, with the place where it is known."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark is not None else ""
    said = getattr(error, "problem", None) or str(error).partition("\n")[0]
    if said.startswith("but "):
        said = f"{getattr(error, 'context', '')}, {said}"
    return f"{place}{' '.join(said.split())}"


def _count(value: Any, nodes: int, depth: int) -> int:
    """Every alias written out. Raises: ValueError."""
    if nodes > MOST_NODES or depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            nodes = _count(inner, nodes + 1, depth + 1)
    elif not isinstance(value, SCALARS):
        raise ValueError(f"{type(value).__name__} is nothing that a setting can be")
    return nodes
