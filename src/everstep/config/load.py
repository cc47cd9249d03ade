"""From files, flags and environment to one checked Config, and back to YAML.

Layers, the later winning: defaults, the YAML file, EVERSTEP_ variables, flags, --set. Every error names its key, the
value found and where it came from; unknown keys get the nearest known one.
"""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from everstep.config import yamlfile
from everstep.config.schema import Config
from everstep.errors import UserError

Settings = dict[str, Any]
PRESETS = Path(__file__).parent / "presets"
BARE = ("base", "data")  # sections that may be written as their path alone
NULLS = ("", "null", "~")
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother, SHORT.maxlong = 2, 80, 80, 40


@dataclass(frozen=True, slots=True)
class Layer:
    """Some settings and where they came from."""

    origin: str
    settings: Mapping[str, Any]


def resolve(file: str | None, overlay: Settings, assignments: Iterable[str] = ()) -> Config:
    """Check and merge all layers. Raises: UserError naming every wrong key."""
    layers = [] if file is None else [read_file(file)]
    layers += [Layer("the command line", overlay), Layer("--set", parse_assignments(assignments))]
    merged: Settings = {}
    for layer in layers:
        refuse_unknown(layer)
        merged = _merge(merged, layer.settings)
    return validate(merged, layers[0].origin if file else "the command line")


def validate(settings: Settings, origin: str) -> Config:
    """Check settings against the schema. Raises: UserError with one line for each fault."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """One line for each wrong setting: its key, the value found, and what it should be."""
    reasons: dict[str, list[Any]] = {}
    for fault in error.errors():
        reasons.setdefault(".".join(map(str, fault["loc"][:2])), []).append(fault)
    return "\n".join(_explain(key, faults) for key, faults in reasons.items())


def read_file(name: str) -> Layer:
    """Read a YAML file, or a preset by its name. Raises: UserError."""
    path = Path(name)
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # too long a name, or one that no file can have
        raise UserError(
            f"{SHORT.repr(name)} is no name of a file: {getattr(error, 'strerror', None) or error}."
        ) from None
    if not path.is_file() and (PRESETS / f"{name}.yaml").is_file():
        path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
        raise UserError(f"{name}: there is no such file, nor a preset of this name ({known}).")
    return Layer(name, _parse_yaml(path))


def read_hparams(path: Path) -> Config:
    """The settings a run was started with."""
    layer = Layer(str(path), _parse_yaml(path))
    refuse_unknown(layer)
    return validate(as_it_was(layer.settings), str(path))


def dump(config: Config) -> str:
    """All settings as YAML; `resolve` of it gives the same Config."""
    return yamlfile.dump(config.model_dump(mode="json"))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys: {"optim.seed": 7}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def changes(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with (before, after)."""
    old, new = flatten(before.model_dump(mode="json")), flatten(after.model_dump(mode="json"))
    return {key: (old[key], new[key]) for key in new if old[key] != new[key]}


def parse_assignments(assignments: Iterable[str]) -> Settings:
    """`optim.learning_rate=5e-6` -> nested settings; values are read as YAML. Raises: UserError."""
    nested: Settings = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise UserError(f"--set {assignment}: write it as key=value, for example optim.learning_rate=5e-6.")
        name = key.strip().replace("-", "_")
        value: Any = _value(name, text)
        for part in reversed(name.split(".")):
            value = {part: value}
        nested = _merge(nested, value)
    return nested


def _value(key: str, text: str) -> Any:
    """As YAML; but a setting that is a text is what is written, unless that is quoted."""
    if key in _texts() and not text.lstrip().startswith(('"', "'")):
        return None if text.strip() in NULLS else text
    try:
        return yamlfile.parse(text)
    except yamlfile.FAULTS as error:
        raise UserError(
            f"--set {key}={SHORT.repr(text)}: the value cannot be read, {yamlfile.why(error)}. Nothing was changed."
        ) from None


def _texts() -> set[str]:
    """Keys of settings that are texts, paths above all."""
    found = set(BARE)
    for name, section in Config.model_fields.items():
        fields = section.annotation.model_fields  # type: ignore[union-attr]
        found |= {f"{name}.{key}" for key, field in fields.items() if field.annotation in (str, str | None)}
    return found


def _parse_yaml(path: Path) -> Settings:
    parsed = yamlfile.read(path)
    if not isinstance(parsed, dict | None):
        raise UserError(f"{path}: sections were expected (base:, data:, optim: ...), found {type(parsed).__name__}.")
    # A section in which nothing is written is one in which nothing is set.
    return {key: value for key, value in (parsed or {}).items() if value is not None or key not in Config.model_fields}


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> Settings:
    """Sections are merged key by key; a section written as its path alone replaces only the path."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, str) and isinstance(value, Mapping):
            below = {"path": below}
        if isinstance(value, str) and isinstance(below, Mapping):
            value = {"path": value}
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


# What was done before there was a setting for it, where that is no longer the default.
BEFORE: Settings = {"data": {"resize": "lanczos", "condition_resize": "bilinear"}}


def as_it_was(settings: Mapping[str, Any]) -> Settings:
    """The settings of a run that may have begun before some of them were there: it goes on as it was trained."""
    filled = dict(settings)
    for section, before in BEFORE.items():
        if isinstance(given := settings.get(section, {}), Mapping):
            filled[section] = {**before, **given}
    return filled


def known_part(settings: Mapping[str, Any]) -> Settings:
    """Without what this release has no setting for: a version may have been made by an older one, or a newer one."""
    settings = as_it_was(settings)
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    return {
        name: {key: value for key, value in section.items() if key in sections[name].model_fields}  # type: ignore[union-attr]
        for name, section in settings.items()
        if name in sections and isinstance(section, Mapping)
    }


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, in its order."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys += known_keys(nested, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def refuse_unknown(layer: Layer) -> None:
    """Raises: UserError naming every key that the schema does not have, with the nearest one that it has."""
    keys = known_keys()
    sections = set(Config.model_fields)
    faults = []
    for key, value in flatten(layer.settings).items():
        is_bare_path = key in BARE and isinstance(value, str)
        if key in keys or is_bare_path:
            continue
        if key in sections:
            one = next(known for known in keys if known.startswith(f"{key}."))
            faults.append(f"{layer.origin}: {key} is a section, not a setting; one of its settings is {one}.")
            continue
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5) or _by_last_part(key, keys)
        hint = f" Did you mean {near[0]}?" if near else f" Sections are {', '.join(sorted(sections))}."
        faults.append(f"{layer.origin}: there is no setting {key}.{hint}")
    if faults:
        raise UserError("\n".join(faults))


def _by_last_part(key: str, keys: list[str]) -> list[str]:
    lasts = {known.rpartition(".")[2]: known for known in keys}
    return [lasts[name] for name in difflib.get_close_matches(key.rpartition(".")[2], lasts, n=1)]


def _explain(key: str, faults: list[Any]) -> str:
    """Of one setting; where it may be one of several kinds, there is a fault for each."""
    first = faults[0]
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}."
    found = SHORT.repr(first["input"])
    if first["type"] in ("model_type", "dict_type"):
        is_path = key in BARE
        return f"{key} is {found}, but should be {'a path, in quotes, or ' if is_path else ''}a section of settings."
    if first["type"] == "int_parsing" and (whole := _whole(first["input"])) is not None:
        return f"{key} is {found}, but should be an integer: write {whole}."
    reasons = dict.fromkeys(fault["msg"].removeprefix("Input should be ") for fault in faults)
    return f"{key} is {found}, but should be {' or '.join(reasons)}."


def _whole(text: Any) -> int | None:
    """10000 for "1e4"."""
    try:
        number = float(text)
        return int(number) if number == int(number) and abs(number) < 1e15 else None
    except (TypeError, ValueError, OverflowError):
        return None
