"""The page that an exported ControlNet has on the hub: what it is, how to draw with it, how it was made and measured.

Only what the run recorded; no path of this machine. Never imports torch.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from everstep.config.load import flatten
from everstep.data.recipe import FILE
from everstep.exchange.architecture import TITLES
from everstep.exchange.readers import READERS
from everstep.records.scores import latest_verdict
from everstep.versions import Run, Version

SHEET = "samples.png"
SETTINGS = re.compile(
    r"optim\.(?!start_from).*|data\.(resolution|resize|condition|condition_random|condition_resize)|compute\.precision"
)
LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TITLE = re.compile(r"[^\w .,()-]")  # what would be markup in a page


def card(
    run: Run, version: Version, metadata: dict[str, str], repository: str, file: str | None, has_sheet: bool
) -> str:
    """The README.md. file: the single file in the repository; None where the repository is the folder."""
    told = {key.removeprefix("everstep."): value for key, value in metadata.items() if key.startswith("everstep.")}
    lines = [
        *_front(told),
        f"# {TITLE.sub('', run.name)}, version {version.number}",
        "",
        f"A ControlNet for {TITLES.get(told.get('family', ''), 'the base named below')}"
        f"{', trained on ' + told['condition'] + ' conditions' if 'condition' in told else ''}: "
        f"step {version.step:,}, {version.images_seen:,} images seen, weights {told['weights']}.",
        "",
        *([f"![Held-out conditions, what it draws, and the targets]({SHEET})", ""] if has_sheet else []),
        *_use(repository, file, told.get("family")),
        *_table("What it is", {name.replace("_", " "): value for name, value in told.items()}),
        *_measured(run, version),
        *_table("Settings", _settings(version)),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _front(told: dict[str, str]) -> Iterator[str]:
    """What the hub itself reads. JSON strings are YAML strings."""
    yield "---"
    if licence := told.get("licence"):
        is_id = LICENCE_ID.fullmatch(licence) is not None
        yield f"license: {licence}" if is_id else f"license: other\nlicense_name: {json.dumps(licence)}"
    if HUB_ID.fullmatch(base := told.get("base", "")):
        yield f"base_model: {json.dumps(base)}"
    yield "library_name: diffusers"
    yield "tags:\n- controlnet\n- everstep"
    yield "---\n"


def _use(repository: str, file: str | None, kind: str | None) -> Iterator[str]:
    yield "## How to use it\n"
    if file is None:
        yield "```python"
        yield "from diffusers import ControlNetModel\n"
        yield f'controlnet = ControlNetModel.from_pretrained("{repository}")'
        yield "```\n"
        yield "Conditions are RGB pictures in [0,1].\n"
        return
    yield f"`{file}` goes into the program that you draw with; conditions are RGB pictures in [0,1].\n"
    yield "| program | where it goes | what loads it |"
    yield "| --- | --- | --- |"
    for reader in READERS.values():
        if kind in reader.singles:
            yield f"| {' | '.join((reader.title, *reader.way(kind)))} |"
    yield ""


def _measured(run: Run, version: Version) -> Iterator[str]:
    """The verdict is the run's, on all its versions; the scores are this version's."""
    scores = run.annotation(version.number).scores
    found = latest_verdict(run)
    if found is not None and scores:
        yield "## Whether it obeys its condition\n"
        yield f"The run's verdict, over all its versions: {found['sentence']}\n"
    yield from _table("Scores of this version, on pairs held out", {n: f"{v:.4f}" for n, v in sorted(scores.items())})


def _settings(version: Version) -> dict[str, str]:
    flat: dict[str, Any] = flatten(version.manifest.get("config", {}))
    flat["data.condition"] = str(flat.get("data.condition", FILE)).rpartition("/")[2]  # nobody's folders
    if flat["data.condition"] == FILE:
        del flat["data.condition"]
        flat.pop("data.condition_random", None)
    return {key: str(value) for key, value in flat.items() if SETTINGS.fullmatch(key) and value is not None}


def _table(heading: str, rows: dict[str, str]) -> Iterator[str]:
    if rows:
        yield f"## {heading}\n"
        yield "| | |"
        yield "| --- | --- |"
        for name, value in rows.items():
            yield f"| {name} | {value.replace('|', '/')} |"
        yield ""
