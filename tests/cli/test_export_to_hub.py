"""everstep export --push-to-hub, over HTTP to a hub on this machine: what is uploaded, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from diffusers import ControlNetModel
from safetensors.torch import load_file

HUB = Path(__file__).parents[1] / "delivery/hub.py"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that uploads end in."""
    folder = tmp_path / "hub"
    folder.mkdir()
    serving = subprocess.Popen([sys.executable, HUB, folder], stdout=subprocess.PIPE, text=True)
    assert serving.stdout is not None
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{int(serving.stdout.readline())}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield folder
    serving.kill()
    serving.wait()
    serving.stdout.close()


def pushed(*words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's library reads where the hub is as it is imported."""
    asked = [sys.executable, "-m", "everstep", "export", "b@1", "--for", "diffusers", "--out", "out", *words]
    return subprocess.run(asked, capture_output=True, text=True)


def test_a_folder_with_its_page_is_what_diffusers_loads_from_the_hub(branched: Path, hub: Path) -> None:
    ended = pushed("--push-to-hub", "me/edges", "--licence", "My own, ask me", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["hub"].endswith("/me/edges")
    assert json.loads((hub / "created.json").read_text())["visibility"] == "private"
    read, wanted = ControlNetModel.from_pretrained(hub), load_file("out/diffusion_pytorch_model.safetensors")
    assert all(tensor.equal(wanted[name].float()) for name, tensor in read.float().state_dict().items())
    page = (hub / "README.md").read_text()
    assert page.startswith('---\nlicense: other\nlicense_name: "My own, ask me"\nlibrary_name: diffusers\ntags:')
    assert "# b, version 1\n" in page
    assert 'ControlNetModel.from_pretrained("me/edges")' in page
    assert "step 2, 4 images seen, weights averaged." in page
    assert "| optim.batch_size | 2 |" in page
    assert "![Held-out conditions, what it draws, and the targets](samples.png)" in page
    assert (hub / "samples.png").read_bytes() == (branched / "b/records/samples/version_1.png").read_bytes()


def test_the_page_says_nothing_of_this_machine(branched: Path, hub: Path) -> None:
    """b was begun from a folder on it, which its config.json names."""
    assert "_name_or_path" in (branched / "b/version_1/controlnet/config.json").read_text()
    assert pushed("--push-to-hub", "me/edges").returncode == 0
    for file in ("README.md", "config.json"):
        content = (hub / file).read_text()
        assert not any(word in content for word in (str(branched.parent), "/tmp", str(Path.home()), "hf_secret"))


@pytest.mark.parametrize(
    ("repository", "token", "sentence"),
    [
        ("edges", "hf_secret", "--push-to-hub edges: a repository is OWNER/NAME. Nothing was written."),
        ("me/edges", "", "--push-to-hub me/edges: the hub does not know you. Nothing was written.\nhf auth login"),
    ],
)
def test_what_cannot_be_uploaded_is_said_before_any_work(
    branched: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, repository: str, token: str, sentence: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_HOME", str(branched / "home"))
    ended = pushed("--push-to-hub", repository)
    assert (ended.returncode, ended.stderr.strip()) == (2, sentence)
    assert os.listdir(hub) == []
    assert not Path("out").exists()


def test_a_hub_that_refuses_leaves_what_was_exported(branched: Path, hub: Path) -> None:
    (hub / "refuse").touch()
    ended = pushed("--push-to-hub", "me/edges")
    assert ended.returncode == 2
    assert "me/edges was not uploaded: " in ended.stderr
    assert "What was exported is here, whole." in ended.stderr
    assert ControlNetModel.from_pretrained("out") is not None
