"""Who may ask, and what may be asked: names, tokens, other people's pages, paths that lead away."""

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from everstep.versions import Run
from everstep.watching.app import make_app

MINE = {"x-everstep": "1"}


@pytest.fixture
def ask(trained: Run) -> TestClient:
    return TestClient(make_app(trained.path.parent), base_url="http://127.0.0.1:8500")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8500", "", "[", "a b"]
)
def test_another_name_is_not_answered(ask: TestClient, host: str) -> None:
    answered = ask.get("/api/runs", headers={"host": host})
    assert answered.status_code == 421
    assert "runs" not in answered.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8500"])
def test_names_of_this_machine_are_answered(ask: TestClient, host: str) -> None:
    assert ask.get("/api/runs", headers={"host": host}).json()["runs"][0]["name"] == "a"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-everstep": "yes"},
        {**MINE, "origin": "http://evil.example"},
        {**MINE, "origin": "null"},
        {**MINE, "origin": "http://127.0.0.1:9999"},
        {**MINE, "sec-fetch-site": "cross-site"},
        {**MINE, "sec-fetch-site": "same-site"},
    ],
)
def test_what_another_page_sends_changes_nothing(ask: TestClient, trained: Run, headers: dict[str, str]) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answered = ask.request(method, "/api/runs/a/do/pin", json={"version": 1}, headers=headers)
        assert answered.status_code == 403
    assert not trained.annotation(1).pinned


def test_our_own_page_may(ask: TestClient, trained: Run) -> None:
    headers = {**MINE, "origin": "http://127.0.0.1:8500", "sec-fetch-site": "same-origin"}
    answered = ask.post("/api/runs/a/do/pin", json={"version": 1}, headers=headers)
    assert answered.json()["code"] == 0, answered.text
    assert trained.annotation(1).pinned


def test_a_token_is_asked_for_and_leaves_the_address(trained: Run) -> None:
    app = make_app(trained.path.parent, ["box"], "secret")
    stranger = TestClient(app, base_url="http://box:8500")
    assert stranger.get("/").status_code == 403
    assert stranger.get("/api/runs").status_code == 403
    assert stranger.get("/?token=secre").status_code == 403
    assert stranger.get("/api/runs", headers={"cookie": "everstep=secre"}).status_code == 403
    assert stranger.post("/api/runs/a/do/pin", json={"version": 1}, headers=MINE).status_code == 403
    entered = stranger.get("/?token=secret")
    assert (entered.status_code, entered.url.query) == (200, b"")
    assert stranger.get("/api/runs").status_code == 200
    cookie = entered.history[0].headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict"))


@pytest.mark.parametrize(
    "path",
    [
        "/page/..%2fapp.py",
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/nothing.js",
        "/api/runs/..",
        "/api/runs/..%2f..%2fetc",
        "/api/runs/%2fetc",
        "/api/runs/nothing",
        "/api/runs/a%00",
        "/api/runs/a/pictures/..%2fmanifest",
        "/api/runs/a/pictures/99",
        "/api/runs/..%2fa/pictures/1",
        "/api/runs/a/versions/99",
    ],
)
def test_a_path_that_leads_away_leads_nowhere(ask: TestClient, path: str) -> None:
    answered = ask.get(path)
    assert answered.status_code in (404, 409), answered.text
    assert "import" not in answered.text


def test_every_answer_forbids_what_the_page_does_not_need(ask: TestClient) -> None:
    for path in ("/", "/page/page.js", "/api/runs", "/nothing"):
        headers = ask.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("button", "given", "said"),
    [
        ("delete", {}, "There is no button 'delete'"),
        ("pin", {}, "Which version it is for is a number"),
        ("pin", {"version": "1; rm -rf /"}, "Which version it is for is a number"),
        ("pin", {"version": True}, "Which version it is for is a number"),
        ("label", {"version": 1, "label": "--note=x"}, "begins with a dash"),
        ("label", {"version": 1, "label": "a\nb"}, "a line of 1 to"),
        ("label", {"version": 1, "label": "x" * 501}, "a line of 1 to"),
        ("label", {"version": 1}, "a line of 1 to"),
        ("export", {"version": 1, "for": "../../x"}, "It is exported for one of"),
    ],
)
def test_a_button_has_only_its_choices(
    ask: TestClient, trained: Run, button: str, given: dict[str, object], said: str
) -> None:
    answered = ask.post(f"/api/runs/a/do/{button}", json=given, headers=MINE)
    assert answered.status_code == 409
    assert said in answered.json()["error"]
    assert trained.annotation(1).labels == ()


@pytest.mark.parametrize("body", [b"{", b"[]", b'"pin"', b'{"a": "' + b"x" * 20_000 + b'"}'])
def test_what_is_no_button_is_said_so(ask: TestClient, body: bytes) -> None:
    assert ask.post("/api/runs/a/do/pin", content=body, headers=MINE).status_code == 400


def test_a_label_that_is_markup_stays_text(ask: TestClient, trained: Run) -> None:
    label = "<img src=x onerror=alert(1)>"
    answered = ask.post("/api/runs/a/do/note", json={"version": 1, "note": label}, headers=MINE)
    assert answered.json()["code"] == 0, answered.text
    assert trained.annotation(1).note == label
    told = ask.get("/api/runs/a")
    assert told.headers["content-type"] == "application/json"
    assert json.loads(told.text)["versions"]["note"][1] == label


def test_a_button_that_cannot_write_says_so_and_changes_nothing(ask: TestClient, trained: Run) -> None:
    (trained.path.parent / "exports").write_text("in the way")
    answered = ask.post("/api/runs/a/do/export", json={"version": 1, "for": "diffusers"}, headers=MINE)
    assert answered.status_code == 409
    assert "could not be begun: File exists. Nothing was changed." in answered.json()["error"]
    (trained.path / "records/resumed.log").mkdir()
    answered = ask.post("/api/runs/a/do/resume", json={}, headers=MINE)
    assert answered.status_code == 409
    assert "could not be begun: Is a directory" in answered.json()["error"]


def test_a_run_that_is_deleted_meanwhile_is_said_to_be_gone(ask: TestClient, trained: Run, tmp_path: Path) -> None:
    assert ask.get("/api/runs/a").status_code == 200
    trained.path.rename(tmp_path / "elsewhere")
    assert ask.get("/api/runs/a").json() == {"error": "There is no such run any more."}
    assert ask.get("/api/runs").json()["runs"] == []
