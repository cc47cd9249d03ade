"""everstep show"""

from everstep.cli.place import open_version
from everstep.cli.printing import print_facts, print_json, print_table
from everstep.units import size
from everstep.versions import Annotation, Version


def show_(version: str, *, json: bool = False) -> int:
    """One version whole: how it was made, and what is in it.

    Parameters
    ----------
    version
        RUN@N, or RUN for its latest version.
    json
        Print the manifest as JSON.
    """
    run, found = open_version(version)
    if json:
        print_json(found.manifest)
        return 0
    print_facts(_facts(found, run.annotation(found.number)))
    print()
    files = [
        (path, size(entry["size"]) if (found.path / path).is_file() else "gone", _tensors(entry))
        for path, entry in found.files.items()
    ]
    print_table(("file", "size", "tensors"), files, right=("size", "tensors"))
    return 0


def _facts(version: Version, note: Annotation) -> dict[str, str]:
    manifest = version.manifest
    facts = {
        "version": f"{version.name}, {version.path}",
        "step": f"{version.step:,}, {version.images_seen:,} images seen",
        "made": f"{version.created_at}, reason {version.reason}",
        "resumable": "yes" if version.resumable else "no, slim: weights only",
        "size": size(version.disk_bytes),
        "digest": version.manifest_digest,
    }
    names = [*note.labels, *(["pinned"] if note.pinned else [])]
    facts |= {"labels": ", ".join(names)} if names else {}
    facts |= {"note": note.note} if note.note else {}
    facts |= {name: f"{value:.4f}" for name, value in note.scores.items()}
    if version.parent is not None:
        facts["parent"] = f"{version.parent.run} version_{version.parent.version}"
        for key, (before, after) in version.parent.changes.items():
            facts[f"  {key}"] = f"{before} -> {after}, changed on purpose"
    for name in ("base", "data", "inputs", "libraries", "code", "machine"):
        if isinstance(manifest.get(name), dict):
            facts |= {
                f"{name} {key}": _short(value) for key, value in manifest[name].items() if value not in (None, {})
            }
    return facts


def _tensors(entry: dict[str, object]) -> str:
    tensors = entry.get("tensors")
    return "" if tensors is None else str(tensors)


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > 6:
        return f"{', '.join(map(str, value[:3]))} ... ({len(value)})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
