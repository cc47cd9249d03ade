"""Who one is on S3: from the environment, else from the file of Amazon's tools, else nobody."""

from pathlib import Path

import pytest

from everstep.mirror.credentials import KNOWN_TO_OBSTORE, found_here

FILE = """
[default]
aws_access_key_id = one
aws_secret_access_key = first%secret

[work]
aws_access_key_id = two
aws_secret_access_key = second
aws_session_token = third
"""


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*KNOWN_TO_OBSTORE, "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    assert found_here() == {}


def test_the_file_of_other_tools_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(FILE)
    assert found_here() == {"access_key_id": "one", "secret_access_key": "first%secret"}
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert found_here() == {"access_key_id": "two", "secret_access_key": "second", "session_token": "third"}


@pytest.mark.parametrize("content", [None, "", "[other]\n", "[default]\naws_access_key_id = one\n", "nonsense"])
def test_where_there_are_none_it_is_said_at_once(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws/credentials").write_text(content)
    with pytest.raises(PermissionError, match="no credentials are found"):
        found_here()
