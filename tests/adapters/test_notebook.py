"""A run in a cell: well-formed, with its versions and its picture, and nothing in it is taken for markup."""

import html.parser
from pathlib import Path

import pytest
from drafts import draft
from PIL import Image

from everstep.adapters.notebook import MOST_ROWS, show
from everstep.errors import UserError
from everstep.records.sheets import sheet_path
from everstep.versions import LiveStatus, Run, write_live


class Reader(html.parser.HTMLParser):
    """Tags that are open, and the text between."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.text, self.images = [], "", []

    def handle_starttag(self, tag, attributes) -> None:
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += f" {data}"


def read(shown) -> Reader:
    reader = Reader()
    reader.feed(shown._repr_html_())
    assert reader.open == []
    return reader


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "a<b>", "lr: 1\n")


def test_a_run_that_begins_is_shown(run: Run) -> None:
    assert "a<b> has not been trained yet" in " ".join(read(show(run.path)).text.split())
    assert "none yet" in repr(show(run.path))
    with pytest.raises(UserError):
        show(run.path.with_name("other"))


def test_versions_and_the_newest_sheet_are_shown(run: Run) -> None:
    with run.lock("test"):
        for step in range(MOST_ROWS + 2):
            run.commit(draft(step))
    facts = {"images_seen": 9, "images_per_second": None, "loss": None, "last_version": None}
    live = LiveStatus.now(state="running", step=21, max_steps=40, next_version_step=None, snapshot_step=20, **facts)
    write_live(run.layout, live)
    sheet_path(run, 3).parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(sheet_path(run, 3))
    seen = read(show(run.path))
    assert "running, step 21 of 40, 9 images, 1 steps at risk" in seen.text
    assert f"newest {MOST_ROWS} of {MOST_ROWS + 2} versions" in seen.text
    assert f"version_{MOST_ROWS + 1}" in seen.text
    assert "version_1 " not in f"{seen.text} "
    assert [image["alt"] for image in seen.images] == ["contact sheet of version_3"]
    assert f"version_{MOST_ROWS + 1}, step {MOST_ROWS + 1}" in repr(show(run.path))
