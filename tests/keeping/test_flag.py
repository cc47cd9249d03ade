"""A flag is seen by whoever was forked after it was made, and by nobody else."""

import os

from everstep.keeping.flag import Flag


def test_it_is_seen_by_those_that_come_from_whoever_raises_it() -> None:
    flag, other = Flag(), Flag()
    seen, told = os.pipe()
    if (pid := os.fork()) == 0:
        while not flag.is_up:
            continue
        os.write(told, b"other" if other.is_up else b"seen")
        os._exit(0)
    assert not flag.is_up
    flag.up()
    assert os.read(seen, 5) == b"seen"
    os.waitpid(pid, 0)
    os.close(seen)
    os.close(told)
