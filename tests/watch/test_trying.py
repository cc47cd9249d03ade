"""Trying versions: the page draws what the verb draws; what cannot be is said; the process leaves, or is killed."""

import base64
import io
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from serving import wait_for
from starlette.testclient import TestClient

from behind import stands_behind
from disks import remount, small_disk
from everstep.priority import NICENESS
from everstep.records.tried import list_tried
from everstep.versions import Run, verify
from everstep.watching import trying
from everstep.watching.app import make_app
from everstep.watching.trying import Asked, Studio

MINE = {"x-everstep": "1"}
SAMPLING = {"steps": 2, "seed": 7, "condition_scale": 0.5, "guidance_scale": 3}


def picture(side: int = 40) -> bytes:
    kept = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).save(kept, "PNG")
    return kept.getvalue()


def wanted(**changes: Any) -> dict[str, Any]:
    condition = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    given = {"condition": condition, "prompt": "a circle", "versions": [2, 0], "made": False, "sampling": SAMPLING}
    return {**given, **changes}


@pytest.fixture
def ask(trained: Run) -> Iterator[TestClient]:
    with TestClient(make_app(trained.path.parent), base_url="http://127.0.0.1:8500", headers=MINE) as client:
        yield client


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio()
    yield made
    made.close()


def lines(ask: TestClient, **changes: Any) -> list[dict[str, Any]]:
    answered = ask.post("/api/runs/a/try", json=wanted(**changes))
    assert answered.status_code == 200, answered.text
    return [json.loads(line) for line in answered.text.splitlines()]


def test_the_page_draws_what_the_verb_draws_and_keeps_it(
    ask: TestClient, trained: Run, everstep: Callable[..., Any]
) -> None:
    told = lines(ask)
    assert [(one["version"], one["done"], one["total"]) for one in told if "done" in one] == [
        (2, 1, 2),
        (2, 2, 2),
        (0, 1, 2),
        (0, 2, 2),
    ]
    drawn = {one["version"]: base64.b64decode(one["png"]) for one in told if "png" in one}
    Path("c.png").write_bytes(picture())
    asked = ("--steps", 2, "--seed", 7, "--strength", 0.5, "--guidance", 3, "--out", "by-verb.png")
    ended = everstep("sample", "a@2", "--condition", "c.png", "--prompt", "a circle", *asked)
    assert ended.code == 0, ended.out
    with Image.open("by-verb.png") as theirs, Image.open(io.BytesIO(drawn[2])) as ours:
        assert np.array_equal(np.asarray(theirs), np.asarray(ours))
    kept = ask.post("/api/runs/a/keep", json={"name": told[-1]["name"]}).json()
    assert kept["code"] == 0
    (found,) = ask.get("/api/runs/a/tried").json()
    assert (found["versions"], found["prompt"], found["sampler"]["seed"]) == ([2, 0], "a circle", 7)
    assert ask.get(f"/tried/a/{found['name']}/2").content == drawn[2]
    assert Image.open(io.BytesIO(ask.get(f"/tried/a/{found['name']}").content)).size == (16, 16)
    assert ask.get(f"/tried/a/{found['name']}/1").status_code == 404
    facts = json.loads((trained.layout.tried / found["name"] / "tried.json").read_text())
    assert facts["versions"]["0"]["manifest_digest"] == trained.version(0).manifest_digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"versions": []}, "1 to 3 versions"),
        ({"versions": [0, 1, 2, 3]}, "1 to 3 versions"),
        ({"versions": ["1; rm"]}, "1 to 3 versions"),
        ({"versions": [True]}, "1 to 3 versions"),
        ({"prompt": None}, "The prompt is a text"),
        ({"prompt": "x" * 2001}, "The prompt is a text"),
        ({"condition": ""}, "The condition is a picture"),
        ({"condition": "not base64!"}, "The condition is a picture"),
        ({"sampling": {"steps": "many"}}, "Numbers can be given for"),
        ({"sampling": {"scheduler": 1}}, "Numbers can be given for"),
        ({"sampling": [1]}, "Numbers can be given for"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_starts(ask: TestClient, changes: Any, said: str) -> None:
    answered = ask.post("/api/runs/a/try", json=wanted(**changes))
    assert answered.status_code == 409
    assert said in answered.json()["error"]


CANNOT_BE_DRAWN: tuple[tuple[dict[str, Any], str], ...] = (
    ({"condition": base64.b64encode(b"no picture").decode()}, "no image that can be read"),
    ({"made": True}, "it knows no way to make"),
    ({"sampling": {"steps": 0}}, "sampling.steps is 0"),
    ({"versions": [9]}, "a has no version 9"),
)


def test_what_cannot_be_drawn_is_said_and_the_next_is_drawn(ask: TestClient) -> None:
    for changes, said in CANNOT_BE_DRAWN:
        assert said in lines(ask, **changes)[-1]["error"]
        assert "name" in lines(ask, versions=[1])[-1]


@pytest.mark.parametrize("name", ["..", "%2e%2e%2f", "20261129-213300-0000", "x"])
def test_a_name_that_was_never_kept_leads_nowhere(ask: TestClient, name: str) -> None:
    assert ask.get(f"/tried/a/{name}").status_code == 404
    assert "not remembered" in ask.post("/api/runs/a/keep", json={"name": name}).json()["error"]


def drawing(trained: Run, **changes: Any) -> Asked:
    return Asked(trained, wanted(**changes))


def test_one_is_drawn_at_a_time_and_whoever_leaves_ends_it(trained: Run, studio: Studio) -> None:
    first = studio.draw(drawing(trained, sampling={"steps": 1000}), False)
    assert next(first)["done"] == 1
    assert "Something else is being drawn" in next(studio.draw(drawing(trained), False))["error"]
    process = studio.process
    assert process is not None
    first.close()
    assert process.poll() == -signal.SIGKILL
    assert "name" in list(studio.draw(drawing(trained), False))[-1]


@pytest.mark.fault("kill -9 of the process that draws for the page")
def test_a_process_that_is_killed_is_said_and_another_draws(trained: Run, studio: Studio) -> None:
    told = studio.draw(drawing(trained, sampling={"steps": 1000}), False)
    next(told)
    assert studio.process is not None
    os.kill(studio.process.pid, signal.SIGKILL)
    assert "ended (exit code -9)" in list(told)[-1]["error"]
    assert "name" in list(studio.draw(drawing(trained), False))[-1]


def test_it_leaves_when_nobody_asks_and_comes_back(
    trained: Run, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "PROGRAM", (*trying.PROGRAM, "--idle", "0.2"))
    assert "name" in list(studio.draw(drawing(trained), False))[-1]
    process = studio.process
    assert process is not None
    assert process.wait(20) == 0
    assert "name" in list(studio.draw(drawing(trained), False))[-1]
    assert studio.process is not process


def test_beside_a_training_it_takes_one_thread_of_the_processor(trained: Run, studio: Studio) -> None:
    list(studio.draw(drawing(trained), True))
    assert studio.process is not None
    words = Path(f"/proc/{studio.process.pid}/cmdline").read_bytes().split(b"\0")
    assert b"cpu" in words
    assert b"OMP_NUM_THREADS=1" in Path(f"/proc/{studio.process.pid}/environ").read_bytes().split(b"\0")
    assert stands_behind(studio.process.pid) == NICENESS


@pytest.mark.fault("records that are read-only, while the page would keep a drawing")
def test_a_drawing_that_cannot_be_kept_says_so(ask: TestClient, trained: Run) -> None:
    name = lines(ask, versions=[1])[-1]["name"]
    for entry in trained.layout.records.iterdir():
        entry.rename(trained.path.parent / f"aside-{entry.name}")
    with small_disk(trained.layout.records, "size=1m") as records:
        remount(records, "ro")
        answered = ask.post("/api/runs/a/keep", json={"name": name})
        noted = ask.post("/api/runs/a/do/label", json={"version": 1, "label": "good"})
    assert answered.status_code == 409
    assert "cannot be kept" in answered.json()["error"]
    assert noted.json()["code"] == 2
    assert "Nothing was changed" in noted.json()["said"]
    assert list_tried(trained) == []


def test_two_who_prune_at_once_lose_nothing_and_one_does_it(ask: TestClient, trained: Run) -> None:
    settings = yaml.safe_load(trained.layout.hparams.read_text())
    settings["keep"] |= {"everything": False, "last": 1, "best": 0, "every": "none", "jump": False}
    trained.layout.hparams.write_text(yaml.safe_dump(settings))
    answers: list[Any] = []

    def prune() -> None:
        answers.append(ask.post("/api/runs/a/do/prune", json={}).json())

    threads = [threading.Thread(target=prune) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one["code"] for one in answers) in ([0, 0], [0, 2])
    assert all("Traceback" not in one["said"] for one in answers)
    left = Run(trained.path).versions()
    assert [version.number for version in left] == [2]
    assert left[0].resumable
    assert verify(left[0]) == []


def test_what_is_trained_meanwhile_is_seen(trained: Run) -> None:
    assert not trying.is_trained_beside([trained])
    with trained.lock("test"):
        assert trying.is_trained_beside([trained])
    assert not trying.is_trained_beside([trained])


def test_whoever_closes_the_page_ends_what_it_draws(serve: Callable[..., str], trained: Run) -> None:
    address = serve()

    def post(sampling: dict[str, Any]) -> Any:
        body = json.dumps(wanted(versions=[1], sampling=sampling)).encode()
        headers = {**MINE, "content-type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(f"{address}api/runs/a/try", body, headers), timeout=60)

    with post({"steps": 1000}) as drawing:
        assert json.loads(drawing.readline())["done"] == 1

    def is_free() -> bool:
        with post({"steps": 2}) as drawing:
            return "name" in json.loads(drawing.read().splitlines()[-1])

    wait_for(is_free, 20)
