"""A line to a server that takes only so many bytes a second, whoever sends them."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PIECE_BYTES = 64 << 10


@contextmanager
def slow_line(port: int, bytes_a_second: int) -> Iterator[int]:
    """Yields the port of its near end."""
    listening = socket.create_server(("127.0.0.1", 0))
    lock = threading.Lock()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError), source, sink:
            while piece := source.recv(PIECE_BYTES):
                with lock:  # one line for all connections, both ways
                    time.sleep(len(piece) / bytes_a_second)
                sink.sendall(piece)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", port))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
