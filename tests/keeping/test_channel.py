"""What keeper and trainer say to each other arrives whole and in order, or not at all; the keeper never waits."""

import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.keeping.channel import LENGTH, LONGEST_BYTES, MOST_WAITING, Channel, Gone

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    keeper, trainer = Channel.pair()
    yield keeper, trainer
    keeper.close()
    trainer.close()


def test_a_message_of_megabytes_arrives_whole_from_either_side(pair: Pair) -> None:
    keeper, trainer = pair
    words = "x" * (5 << 20)
    keeper.send("retired", words=words)
    assert keeper.is_behind  # more than a socket takes: sent while the other side reads
    sending = threading.Thread(target=trainer.send, args=("plan",), kwargs={"words": words})
    sending.start()  # the trainer may wait
    assert keeper.receive()["words"] == words
    sending.join()
    receiving = threading.Thread(target=flush_all, args=(keeper,))
    receiving.start()
    assert trainer.receive() == {"kind": "retired", "words": words}
    receiving.join()


def flush_all(channel: Channel) -> None:
    while channel.is_behind:
        channel.flush()


@pytest.mark.fault("20,000 messages that the trainer does not read")
def test_messages_that_nobody_reads_never_block_the_keeper_and_the_newest_are_kept(pair: Pair) -> None:
    keeper, trainer = pair
    for number in range(20_000):
        keeper.send("refused", number=number, why="no room " * 40)
    received: list[int] = []
    while not received or received[-1] < 19_999:
        keeper.flush()
        while trainer.is_waiting():
            received.append(trainer.receive()["number"])
    assert received == sorted(set(received))
    assert received[-MOST_WAITING + 1 :] == list(range(20_001 - MOST_WAITING, 20_000))
    assert not keeper.is_behind


@given(st.lists(st.integers(1, 50), max_size=40), st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_messages_are_taken_apart_however_the_bytes_come(cuts: list[int], texts: list[str]) -> None:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel, received = Channel(ends[1]), []
    framed = [json.dumps({"kind": "said", "text": text}).encode() for text in texts]
    stream = b"".join(LENGTH.pack(len(one)) + one for one in framed)
    while stream:
        size = cuts.pop() if cuts else len(stream)
        ends[0].sendall(stream[:size])
        stream = stream[size:]
        channel._read()
        while channel._has_message():
            received.append(channel.receive()["text"])
    assert received == texts
    ends[0].close()
    channel.close()


def test_a_descriptor_comes_with_its_message_and_is_not_inherited(pair: Pair) -> None:
    keeper, trainer = pair
    descriptor = os.memfd_create("test")
    keeper.send("retired", words="before")
    keeper.send("arena", descriptor, where="here")
    keeper.send("retired", words="after")
    messages = [trainer.receive() for _ in range(3)]
    assert ["descriptor" in message for message in messages] == [False, True, False]
    theirs = messages[1]["descriptor"]
    assert os.path.samestat(os.fstat(theirs), os.fstat(descriptor))
    assert not os.get_inheritable(theirs)
    os.close(theirs)
    os.close(descriptor)


def test_a_side_that_ended_is_gone_after_its_last_message(pair: Pair) -> None:
    keeper, trainer = pair
    trainer.send("bye", code=0)
    trainer.close()
    assert keeper.receive() == {"kind": "bye", "code": 0}
    assert keeper.is_waiting()
    with pytest.raises(Gone):
        keeper.receive()
    with pytest.raises(Gone):
        keeper.send("stop", signal="SIGTERM")
    assert not keeper.is_behind


def test_a_message_that_is_longer_than_any_may_be_is_refused_and_spoils_nothing(pair: Pair) -> None:
    keeper, trainer = pair
    with pytest.raises(ValueError, match="is longer than"):
        keeper.send("retired", words="x" * LONGEST_BYTES)
    keeper.send("stop", signal="SIGTERM")
    assert trainer.receive() == {"kind": "stop", "signal": "SIGTERM"}
