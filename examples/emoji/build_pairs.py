"""Builds a folder of real pairs: hand-drawn line art of an emoji -> its 3D picture, captioned.

    npm install --ignore-scripts --prefix examples/emoji/packages \\
        @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0 @iconify-json/fluent-emoji-high-contrast@1.2.6
    pip install resvg-py==0.5.0
    python examples/emoji/build_pairs.py

Everything is drawn at --size and written in the metadata.jsonl layout. Conditions are white lines on black, as
line-art ControlNets expect them; --condition edges takes the outlines of the 3D picture instead.
"""

import argparse
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

HERE = Path(__file__).parent
TARGETS = "@lobehub/fluent-emoji-3d/assets"
LINE_ART = "@iconify-json/fluent-emoji-high-contrast"
CAPTIONS = "emojibase-data/en/data.json"


@dataclass(frozen=True)
class Emoji:
    """One emoji in all three packages."""

    code: str
    caption: str
    target: Path
    line_art: str  # body of an SVG on a grid of 32


def find_emoji(modules: Path) -> Iterator[Emoji]:
    """All emoji that have a 3D picture, a caption and line art, in the order of their codes."""
    pictures = {_plain(path.stem): path for path in (modules / TARGETS).glob("*.webp")}
    captions = {_plain(entry["hexcode"]): _caption(entry) for entry in json.loads((modules / CAPTIONS).read_text())}
    names = {_plain(code): name for code, name in json.loads((modules / LINE_ART / "chars.json").read_text()).items()}
    bodies = json.loads((modules / LINE_ART / "icons.json").read_text())["icons"]
    for code in sorted(pictures.keys() & captions.keys() & names.keys()):
        if names[code] in bodies:
            yield Emoji(code, captions[code], pictures[code], bodies[names[code]]["body"])


def _plain(code: str) -> str:
    return code.lower().replace("-fe0f", "")


def _caption(entry: dict[str, Any]) -> str:
    tags = [tag for tag in entry.get("tags", ()) if tag not in entry["label"]][:3]
    return ", ".join([entry["label"], *tags])


def draw_target(path: Path, size: int) -> Image.Image:
    """The 3D picture on white."""
    with Image.open(path) as opened:
        cut = ImageOps.contain(opened.convert("RGBA"), (size, size), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (size, size), "white")
    sheet.paste(cut, ((size - cut.width) // 2, (size - cut.height) // 2), cut.getchannel("A"))
    return sheet


def draw_line_art(body: str, size: int) -> Image.Image:
    """The drawing in white on black."""
    import resvg_py

    black = body.replace("currentColor", "white")
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="32" height="32">'
    sheet = '<rect width="32" height="32" fill="black"/>'
    drawn = resvg_py.svg_to_bytes(svg_string=f"{head}{sheet}{black}</svg>", width=size, height=size)
    with Image.open(io.BytesIO(bytes(drawn))) as opened:
        return opened.convert("RGB")


def draw_edges(target: Image.Image) -> Image.Image:
    """Outlines of the picture itself: the length of its gradient, stretched to full range."""
    grey = np.asarray(target.convert("L").filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float64)
    down, across = np.gradient(grey)
    length = np.hypot(down, across)
    scaled = (length / max(1.0, float(np.percentile(length, 99))) * 255).clip(0, 255)
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=HERE / "packages", help="where npm installed to")
    parser.add_argument("--out", type=Path, default=HERE / "pairs")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--condition", choices=("lineart", "edges"), default="lineart")
    asked = parser.parse_args()
    modules = asked.packages / "node_modules"
    if not modules.is_dir():
        parser.error(f"{modules} is not there; the npm command at the top of this file makes it")
    for name in ("target", "condition"):
        (asked.out / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for emoji in find_emoji(modules):
        target = draw_target(emoji.target, asked.size)
        is_lineart = asked.condition == "lineart"
        condition = draw_line_art(emoji.line_art, asked.size) if is_lineart else draw_edges(target)
        names = {"file_name": f"target/{emoji.code}.png", "conditioning_image": f"condition/{emoji.code}.png"}
        target.save(asked.out / names["file_name"])
        condition.save(asked.out / names["conditioning_image"])
        lines.append(json.dumps({**names, "text": emoji.caption}, ensure_ascii=False))
    (asked.out / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} pairs of {asked.size} px in {asked.out}")


if __name__ == "__main__":
    main()
