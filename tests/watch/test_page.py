"""The page in a real browser: what is seen is what is there, and a button does what its verb does."""

import base64
import io
import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import wait_for

from everstep.records.sheets import place_on_sheet, sheet_path
from everstep.records.tried import list_tried
from everstep.versions import Run, read_live, write_annotation
from program import Program

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
Serve = Callable[..., str]
LABEL = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, serve: Serve) -> Iterator[Any]:
    """Fails on whatever the browser complains of, on a request that leaves this machine. Ends before the server."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    opened = context.new_page()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    opened.on("request", lambda asked: complaints.append(asked.url) if not is_here(asked.url) else None)
    opened.set_default_timeout(20_000)
    yield opened
    context.close()
    assert [one for one in complaints if "404" not in one and "409" not in one] == []  # of a run that is gone, or going


def is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "file:", "data:", "blob:"))


def shown(page: Any, selector: str) -> np.ndarray:
    """The pixels of a picture as the browser has decoded it."""
    drawn = page.eval_on_selector(
        selector,
        """async image => {
            await image.decode();
            const canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png").split(",")[1];
        }""",
    )
    with Image.open(io.BytesIO(base64.b64decode(drawn))) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


def on_sheet(run: Run, version: int, row: str, pair: int) -> np.ndarray:
    with Image.open(sheet_path(run, version)) as opened:
        return np.asarray(opened.crop(place_on_sheet(row, pair)).convert("RGB")).astype(int)


def is_picture(page: Any, run: Run, version: int, row: str, pair: int) -> bool:
    """Whether the page shows it there; lossy, but nothing else."""
    wanted = f"[data-shown$='/{version}']" if row == "other" else f"[data-shown^='{version}/']"
    page.wait_for_selector(f".pairs{wanted}")
    selector = f"figure:nth-of-type({pair + 1}) img[data-row={row}]"
    return (
        float(np.abs(shown(page, selector) - on_sheet(run, version, "sample" if row == "other" else row, pair)).mean())
        < 6
    )


def test_all_runs_at_a_glance_and_one_whole(page: Any, serve: Serve, trained: Run) -> None:
    page.goto(serve())
    card = page.locator(".card")
    card.wait_for()  # of one card: of more it complains
    assert "complete" in card.inner_text()
    card.locator("a").click()
    page.wait_for_selector("h1")
    assert page.title() == "a · Everstep"
    assert "4 of 4" in page.locator("main").inner_text()
    sync_api.expect(page.locator("tr[data-version]")).to_have_count(3)
    sync_api.expect(page.locator(".uplot")).to_have_count(2)


def test_one_slider_moves_all_pictures_and_the_wipe_shows_two(page: Any, serve: Serve, trained: Run) -> None:
    page.goto(f"{serve()}#a")
    page.wait_for_selector("figure img[data-row=sample][src]")
    for pair in (0, 1):
        assert is_picture(page, trained, 2, "sample", pair)
    page.locator("#versions").fill("0")
    for pair in (0, 1):
        assert is_picture(page, trained, 0, "sample", pair)
        assert is_picture(page, trained, 0, "condition", pair)
        assert is_picture(page, trained, 0, "target", pair)
    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    assert "version_1 · step 2" in page.locator("output").inner_text()
    assert is_picture(page, trained, 1, "sample", 1)
    page.get_by_label("wipe against").select_option("0")
    assert is_picture(page, trained, 0, "other", 0)
    page.locator("#wipe").fill("30")
    clip = page.eval_on_selector("img[data-row=other]", "image => getComputedStyle(image).clipPath")
    assert clip == "inset(0px 0px 0px 30%)"


def press(page: Any, name: str, text: str | None = None) -> str:
    """Press a button, answer what it asks, and return what it answers."""

    def answer(dialog: Any) -> None:
        dialog.accept(text) if text is not None else dialog.accept()

    page.on("dialog", answer)
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_selector("#answer pre")
    page.remove_listener("dialog", answer)
    said = str(page.locator("#answer").inner_text())
    page.get_by_role("button", name="Close").click()
    return said


def test_buttons_of_a_version_do_what_their_verbs_do(page: Any, serve: Serve, trained: Run) -> None:
    write_annotation(trained.layout, 1, labels=(LABEL,))
    page.goto(f"{serve()}#a")
    page.locator("tr[data-version='1'] button").click()
    page.wait_for_selector("h2:text-is('version_1')")
    assert f"everstep pin {trained.path}@1" in press(page, "Pin")
    assert trained.annotation(1).pinned
    page.wait_for_selector("button:text-is('Unpin')")
    press(page, "Unpin")
    assert not trained.annotation(1).pinned
    press(page, "Label", "good one")
    assert set(trained.annotation(1).labels) == {LABEL, "good one"}
    press(page, "Note", LABEL)
    assert trained.annotation(1).note == LABEL
    press(page, "Make slim")
    assert not trained.version(1).resumable
    assert "everstep prune" in press(page, "Prune ...")
    assert page.title() == "a · Everstep"  # markup in a label is text
    assert LABEL in page.locator("main").inner_text()


def test_an_export_is_where_the_page_says(page: Any, serve: Serve, trained: Run) -> None:
    page.goto(f"{serve()}#a")
    page.get_by_label("export for").select_option("diffusers")
    page.wait_for_selector("#answer pre:has-text('is written to')")
    written = trained.path.parent / "exports/a-2-diffusers"
    assert (written / "config.json").is_file()


@pytest.fixture
def training(
    workplace: Path, tiny_base: Path, pairs_folder: Path, start: Callable[..., Program]
) -> tuple[Program, Run]:
    """One that goes on and on."""
    words = ("--optim.max-steps", 10**6, "--versions.every", 10**6, "--optim.batch-size", 2, "--sampling.pairs", 0)
    more = ("--scoring.overhead", 0, "--keeper.snapshots", 1)
    program = start("train", "--run", "live", "--base", tiny_base, "--data", pairs_folder, *words, *more)
    run = Run(workplace / "runs/live")
    program.wait_for(lambda: (live := read_live(run.layout)) is not None and live.step > 2)
    return program, run


def test_a_training_is_seen_saved_and_stopped(page: Any, serve: Serve, training: tuple[Program, Run]) -> None:
    program, run = training
    page.goto(f"{serve()}#live")
    page.wait_for_selector(".state.running")
    before = page.locator("main section").first.inner_text()
    wait_for(lambda: page.locator("main section").first.inner_text() != before)
    assert "--label fine" in press(page, "Save now", "fine")
    saved = run.find("fine")
    assert saved.reason == "asked"
    page.wait_for_selector(f"tr[data-version='{saved.number}']")
    press(page, "Stop")
    assert program.wait() == 3
    page.wait_for_selector(".state.stopped")
    assert run.find("latest").reason == "asked"


@pytest.mark.fault("kill -9 of keeper and trainer, seen from the page")
def test_a_hanging_and_a_dead_training_look_so_and_one_is_resumed(
    page: Any, serve: Serve, training: tuple[Program, Run]
) -> None:
    program, run = training
    live = read_live(run.layout)
    assert live is not None
    assert program.process.pid is not None
    os.kill(live.pid, signal.SIGSTOP)
    told = json.loads(run.layout.live.read_text())
    run.layout.live.write_text(json.dumps({**told, "updated_at": told["updated_at"] - 300}))
    page.goto(f"{serve()}#live")
    page.wait_for_selector(".state.hangs")
    for pid in (program.process.pid, live.pid):
        os.kill(pid, signal.SIGKILL)
    program.process.join()
    page.wait_for_selector(".state.died, .state.stopped")
    said = press(page, "Resume")
    assert "It has begun, process" in said, said
    page.wait_for_selector(".state.running")
    wait_for(lambda: (now := read_live(run.layout)) is not None and now.pid != live.pid and now.step > live.step)
    press(page, "Stop")
    wait_for(lambda: run.holder() is None)


def test_a_run_and_a_folder_whose_names_are_markup_stay_text(page: Any, serve: Serve, trained: Run) -> None:
    hostile = trained.path.with_name("<img src=x onerror=alert`1`> & \"'.html")
    trained.path.rename(hostile)
    page.goto(serve())
    page.locator(".card a").click()
    page.wait_for_selector("h1")
    assert page.locator("h1").inner_text() == hostile.name
    assert page.title() == f"{hostile.name} · Everstep"
    page.wait_for_selector(".pairs[data-shown^='2/']")
    assert f"everstep prune {shlex.quote(str(hostile))}" in press(page, "Prune ...")
    assert page.locator("img[src=x]").count() == 0


def test_what_is_damaged_and_removed_is_on_the_tree(page: Any, serve: Serve, trained: Run) -> None:
    shutil.rmtree(trained.path / "version_1")
    (trained.path / "version_2/manifest.json").unlink()
    page.goto(f"{serve()}#a")
    page.wait_for_selector("path.damaged title:text-matches('version_2')", state="attached")
    assert "Damaged: version_2, has no manifest" in page.locator("main").inner_text()
    assert page.locator(".tree title:text-matches('version_1, step 2, removed')").count() == 1


def test_who_deletes_a_run_that_is_watched_is_told_so(page: Any, serve: Serve, trained: Run) -> None:
    address = serve()
    page.goto(f"{address}#a")
    page.wait_for_selector("h1")
    shutil.rmtree(trained.path)
    page.wait_for_selector("#link:has-text('no such run')")
    page.locator("#home").click()
    page.wait_for_selector("text=There is no run in")


def test_a_report_is_one_file_with_all_of_it(page: Any, everstep: Callable[..., Any], trained: Run) -> None:
    write_annotation(trained.layout, 1, labels=("</script><script>document.title='taken'</script>",))
    ended = everstep("report", "a", "--out", "a.html")
    assert ended.code == 0, ended.out
    written = Path("a.html").absolute()
    page.goto(written.as_uri())
    page.wait_for_selector("figure img[data-row=sample][src]")
    assert is_picture(page, trained, 2, "sample", 1)
    page.locator("#versions").fill("1")
    assert is_picture(page, trained, 1, "sample", 0)
    assert is_picture(page, trained, 1, "condition", 0)
    assert page.title() == "a · Everstep"
    assert page.get_by_role("button", name="Pin").count() == 0
    page.locator("summary", has_text="Log").click()
    page.wait_for_selector("pre:has-text('event commit')")
    assert len({name for name in page.content().split('"') if name.startswith("data:image/webp")}) < 2 * 3 * 3


def test_a_report_may_have_versions_side_by_side_in_it(page: Any, everstep: Callable[..., Any], trained: Run) -> None:
    ended = everstep("report", "a", "--compare", "0", "--compare", "a@2")
    assert ended.code == 0, ended.out
    page.goto(Path("a.html").absolute().as_uri())
    frame = page.frame_locator("iframe.compared")
    assert "a@0, a@2" in frame.locator("h1").inner_text()
    assert frame.locator(".sheet img").count() == 2 * 4  # condition, two versions, target
    assert "null" not in page.locator("main").inner_text()
    alone = everstep("report", "a", "--compare", "0")
    assert (alone.code, "each of two versions" in alone.out) == (2, True)


def test_versions_are_tried_on_a_condition_that_is_drawn_and_kept(page: Any, serve: Serve, trained: Run) -> None:
    page.goto(f"{serve()}#a")
    page.locator("summary", has_text="Try it").click()
    page.locator("canvas.pad").scroll_into_view_if_needed()
    box = page.locator("canvas.pad").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 90, steps=4)
    page.mouse.up()
    page.get_by_label("prompt").fill(LABEL)
    page.get_by_label("first version").select_option("2")
    page.get_by_label("second version").select_option("0")
    page.get_by_role("spinbutton", name="steps").fill("3")
    page.get_by_role("button", name="Draw").click()
    page.locator(".tried img").nth(1).wait_for(timeout=90_000)
    drawn = shown(page, ".tried img >> nth=0")
    page.get_by_role("button", name="Keep").click()
    page.wait_for_selector(".trying > div:last-child .tried img >> nth=2")
    (kept,) = list_tried(trained)
    assert (kept["versions"], kept["prompt"]) == ([2, 0], LABEL)
    assert kept["sampler"]["steps"] == 3
    with Image.open(trained.layout.tried / kept["name"] / "version_2.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), drawn)
    with Image.open(trained.layout.tried / kept["name"] / "condition.png") as condition:
        assert 0 < np.asarray(condition.convert("L")).mean() < 60  # a white stroke on black
    assert page.title() == "a · Everstep"
