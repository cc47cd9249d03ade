"""What takes long is said beside what is printed for programs: on stderr, and only then."""

import time

import pytest

from everstep.cli.printing import beside


def test_what_takes_long_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with beside("Reading version_3", "files") as said:
        said(1, 4)
        time.sleep(2.3)
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err == "Reading version_3: 1 of 4 files · 2 s ...\n"


def test_what_is_quick_is_not_worth_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="of its own"), beside("Reading version_3"):
        raise ValueError("of its own")
    assert capsys.readouterr() == ("", "")
