"""everstep compare: the sheet, the page and the tables; on real runs, with pictures drawn for real."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everstep.evaluation.pictures.sheet import CELL_PX, GAP_PX
from everstep.versions import write_annotation
from everstep.versions.layout import RunLayout
from program import Ended

Everstep = Callable[..., Ended]


class Page(HTMLParser):
    """What a browser would find in a page: its open elements at the end, its pictures, and all that it refers to."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[tuple[str, np.ndarray]] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "action") and value]
        if tag == "img" and found.get("src"):
            content = base64.b64decode(str(found["src"]).removeprefix("data:image/png;base64,"))
            self.images.append((str(found["alt"]), np.asarray(Image.open(io.BytesIO(content)))))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)


def compared(everstep: Everstep, *words: object) -> dict[str, object]:
    ended = everstep("compare", *words, "--json")
    assert ended.code == 0, ended.out
    found: dict[str, object] = json.loads(ended.out[ended.out.index("{") :])
    return found


def cells(sheet: Path, rows: int) -> np.ndarray:
    """The pictures of a sheet of one pair, as many as 5 % of 30 are, [row, H, W, 3]."""
    pixels = np.asarray(Image.open(sheet))
    stride = CELL_PX + GAP_PX
    top = pixels.shape[0] - rows * stride
    dark = np.argwhere(
        (pixels[top : top + CELL_PX] < 8).all(axis=2).sum(axis=0) > CELL_PX // 2
    )  # the condition's paper
    left = int(dark[0, 0])
    squares = [pixels[top + row * stride : top + row * stride + CELL_PX, left : left + CELL_PX] for row in range(rows)]
    return np.stack(squares)


def test_the_sheet_has_the_pictures_that_training_drew(everstep: Everstep, branched: Path, workplace: Path) -> None:
    """Condition, a row for each version, target; the row of a version is that of its own sheet in the run."""
    ended = everstep("compare", "a@1", "a@2", "a@4", "--out", "sheet.png")
    assert ended.code == 0, ended.out
    drawn = cells(workplace / "sheet.png", 5)
    for row, number in enumerate((1, 2, 4), start=1):
        own = cells(branched / f"a/records/samples/version_{number}.png", 3)
        np.testing.assert_array_equal(drawn[[0, row, 4]], own)
    assert not np.array_equal(drawn[1], drawn[3])


def test_averaged_weights_are_drawn_with_where_a_version_has_them(
    everstep: Everstep, branched: Path, workplace: Path
) -> None:
    found = compared(everstep, "a@2", "b@1", "--out", "both.png")
    assert [side["averaged"] for side in found["versions"]] == [False, True]
    own = cells(branched / "b/records/samples/version_1.png", 3)
    np.testing.assert_array_equal(cells(workplace / "both.png", 4)[2], own[1])
    shutil.rmtree(branched / "b/version_1/training")
    found = compared(everstep, "a@2", "b@1", "--out", "slim.png")
    assert [side["averaged"] for side in found["versions"]] == [False, False]


def test_tables_and_json_name_step_scores_size_and_distance(everstep: Everstep, branched: Path) -> None:
    write_annotation(RunLayout(branched / "a"), 4, scores={"circle_iou": 0.625})
    ended = everstep("compare", "a@0", "a@4")
    assert ended.code == 0, ended.out
    assert re.search(r"version +step +images +size .*loss.* distance", ended.out)
    assert re.search(r"a@4 +6 +12 .* 0\.6250 ", ended.out)
    assert re.search(r"controlnet_down_blocks +from zero", ended.out)
    assert (branched.parent / "a@0-a@4.png").is_file()
    told = compared(everstep, "a@0", "a@4")
    apart = json.loads(everstep("diff", "a@0", "a@4", "--json").out)["weights"]
    assert told["versions"][1]["distance"] == apart
    assert told["versions"][0]["distance"]["identical"]
    assert told["versions"][1]["scores"]["circle_iou"] == 0.625
    held_out = json.loads((branched / "a/version_0/manifest.json").read_text())["data"]["held_out"]
    assert told["pairs"] == held_out[:2]  # sampling.pairs


def test_the_page_is_whole_and_asks_for_nothing(everstep: Everstep, branched: Path, workplace: Path) -> None:
    write_annotation(RunLayout(branched / "a"), 2, scores={"<b>odd</b>": 1.0})
    found = compared(everstep, "a@2", "b@1", "--html", "page.html")
    text = (workplace / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.references
    assert all(reference.startswith("data:") for reference in page.references)
    assert not re.search(r"https?:|@import|url\(|fetch|XMLHttp", text)
    assert "default-src 'none'" in text
    assert [alt.partition(":")[0] for alt, _ in page.images] == [
        name for name in ("condition", "a@2", "b@1", "target") for _ in range(2)
    ]
    assert all(pixels.shape == (16, 16, 3) for _, pixels in page.images)
    words = "\n".join(page.words)
    assert all(word in words for word in ("a@2", "b@1", "<b>odd</b>", "optim.ema_decay", "down_blocks.0", "step 2"))
    assert found["html"] == "page.html"
    assert found["settings"]["optim.ema_decay"] == [0.0, 0.9]


def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(
    everstep: Everstep, branched: Path, tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    base = shutil.copytree(tiny_base, workplace / "other-base")
    config = json.loads((base / "scheduler/scheduler_config.json").read_text())
    (base / "scheduler/scheduler_config.json").write_text(json.dumps({**config, "beta_end": 0.0121}))
    data = shutil.copytree(pairs_folder, workplace / "other-data")
    lines = (data / "metadata.jsonl").read_text().splitlines()
    (data / "metadata.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    common = ("--optim.max-steps", 1, "--optim.batch-size", 1, "--sampling.pairs", 0)
    for name, words in {
        "base": ("--base", base, "--data", pairs_folder),
        "size": ("--base", tiny_base, "--data", pairs_folder, "--data.resolution", 20),
        "data": ("--base", tiny_base, "--data", data),
    }.items():
        ended = everstep("train", "--run", name, *words, *common)
        assert ended.code == 0, ended.out
    for name, word in {"base": "different bases", "size": "different resolutions", "data": "different data"}.items():
        ended = everstep("compare", "a@1", f"{name}@0", "--out", "none.png")
        assert ended.code == 2
        assert word in ended.out
        assert f"everstep diff a@1 {name}@0" in ended.out
    assert not (workplace / "none.png").exists()


def test_pairs_that_all_held_out_are_shown_after_the_data_have_grown(
    everstep: Everstep, tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    data = shutil.copytree(pairs_folder, workplace / "data")
    words = ("--run", "g", "--base", tiny_base, "--data", data, "--optim.batch-size", 1)
    assert everstep("train", *words, "--optim.max-steps", 1, "--sampling.pairs", 1).code == 0
    before = json.loads((workplace / "runs/g/version_1/manifest.json").read_text())["data"]["held_out"]
    lines = (data / "metadata.jsonl").read_text().splitlines()
    dropped = next(line for line in lines if json.loads(line)["file_name"] not in before)
    (data / "metadata.jsonl").write_text("\n".join(line for line in lines if line != dropped) + "\n")
    ended = everstep("resume", "g", "--set", f"data.path={data}", "--set", "optim.max_steps=2")
    assert ended.code == 0, ended.out
    found = compared(everstep, "g@0", "g@2")
    assert found["pairs"] == before[:1]  # sampling.pairs
    assert found["notes"][0].startswith("The data have changed since g@0;")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("a@1",), "There is nothing to compare with"),
        (("a@1", "a@1"), "a@1 is named twice"),
        (("a@1", "a@77"), "a has no version 77"),
        (("a@1", "a@2", "--out", "nowhere/x.png"), "there is no folder nowhere"),
        (("a@1", "a@2", "--out", "x.jpg"), "the contact sheet is a PNG"),
        (("a@1", "a@2", "--html", "nowhere/x.html"), "there is no folder nowhere"),
    ],
)
def test_wrong_input_is_said_in_a_sentence(
    everstep: Everstep, branched: Path, words: tuple[str, ...], sentence: str
) -> None:
    ended = everstep("compare", *words)
    assert ended.code == 2
    assert sentence in ended.out
