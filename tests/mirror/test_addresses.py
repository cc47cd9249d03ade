"""What may be written where copies go, and that nothing secret may."""

from pathlib import Path

import pytest

from everstep.errors import UserError
from everstep.mirror import addresses
from everstep.mirror.addresses import (
    address_of,
    check,
    is_address,
    meeting_place,
    name_at,
    parse,
    place_at,
    place_of,
    target_of,
)

WRITTEN = [
    ("s3://bucket", "s3://bucket/r"),
    ("s3://bucket/", "s3://bucket/r"),
    ("s3://bucket/deep/er/?endpoint=http://127.0.0.1:9", "s3://bucket/deep/er/r?endpoint=http://127.0.0.1:9"),
    ("s3://bucket?endpoint=https://h/a&region=eu-1", "s3://bucket/r?endpoint=https://h/a&region=eu-1"),
    ("sftp://me@nas:2222/backup", "sftp://me@nas:2222/backup/r"),
    ("sftp://nas/~/backup", "sftp://nas/~/backup/r"),
    ("hf://Owner/Name", "hf://Owner/Name/r"),
    ("s3://bucket/with%20space", "s3://bucket/with space/r"),
]


@pytest.mark.parametrize(("target", "whole"), WRITTEN)
def test_an_address_is_written_one_way_and_leads_to_the_same_place(target: str, whole: str) -> None:
    assert address_of(target, "r") == place_of(target, "r").address == place_at(whole).address == whole
    assert (parse(whole), name_at(whole)) == (parse(target).child("r"), "r")


@pytest.mark.parametrize(
    "words",
    [
        "s3://AKIA:topsecret@bucket/p",
        "sftp://me:topsecret@nas/backup",
        "hf://o/n?token=topsecret",
        "s3://b?aws_secret_access_key=topsecret",
        "s3://b?X-Amz-Signature=topsecret",
        "s3://b?access_key_id=topsecret",
        "s3://b?session_token=topsecret",
    ],
)
def test_what_is_secret_is_refused_and_not_repeated(words: str) -> None:
    with pytest.raises(UserError, match="must hold nothing secret") as said:
        check(words)
    assert "topsecret" not in str(said.value)


@pytest.mark.parametrize(
    "words", ["s3://", "s3:///p", "sftp://host:port/p", "s3://b?endpiont=x", "s3://b#x", "s3://me@b"]
)
def test_what_is_no_address_is_said(words: str) -> None:
    with pytest.raises(UserError, match=r"Nothing was changed|is not understood"):
        check(words)


def test_a_library_that_is_missing_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(addresses.SCHEMES, "s3", ("obstore_is_not_here", "S3"))
    with pytest.raises(UserError, match=r"S3 as a mirror needs obstore_is_not_here(.|\n)*everstep\[mirror\]"):
        check("s3://bucket/p")


@pytest.mark.parametrize(
    ("mirror", "target"),
    [
        ("s3://bucket/runs/canny?endpoint=http://here:9", "s3://bucket/runs?endpoint=http://here:9"),
        ("s3://bucket/canny", "s3://bucket/"),
        ("sftp://me@nas//backup/canny", "sftp://me@nas/backup"),
        ("/mnt/backup/canny", "/mnt/backup"),
    ],
)
def test_a_target_is_what_its_copies_are_in(mirror: str, target: str) -> None:
    assert target_of(mirror) == target
    assert address_of(target, name_at(mirror)) == address_of(target_of(mirror), "canny")
    if is_address(mirror):
        assert address_of(target_of(mirror), "canny") == str(parse(mirror))


def test_machines_meet_in_the_first_that_is_no_hub(workplace: Path) -> None:
    assert meeting_place([]) is None
    assert meeting_place(["hf://me/copies"]) is None
    assert meeting_place(["hf://me/copies", "s3://bucket/runs"]) == "s3://bucket/runs"
    assert meeting_place(["here", "s3://bucket/runs"]) == str(workplace / "here")
