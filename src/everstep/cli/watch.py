"""everstep watch"""

import socket

from everstep.errors import UserError
from everstep.places import spelled

FAR = "Whoever has this address sees all of it, and can steer it. Ctrl-C ends it."


def watch_(runs: str = "runs", *, host: str = "127.0.0.1", port: int = 8500, name: tuple[str, ...] = ()) -> int:
    """A page on which runs are seen, compared and steered. Nothing leaves this machine.

    Parameters
    ----------
    runs
        The folder of runs, or one run.
    host
        The address to listen at. Beyond this machine the page asks for a token, which is in the address printed.
    port
        Where; the next free one if it is taken.
    name
        Another name by which browsers may ask for the page, beyond this machine.
    """
    import uvicorn

    from everstep.watching.app import make_app
    from everstep.watching.guard import LOOPBACK, new_token

    folder = spelled(runs).absolute()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of runs. everstep train makes one where it is started.")
    is_near = host in LOOPBACK
    token = None if is_near else new_token()
    with _listening(host, port) as listener:
        at = listener.getsockname()[1]
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{at}/"
        print(f"{folder} is seen at {address}{'' if token is None else f'?token={token}'}", flush=True)
        print(_near(at) if is_near else FAR, flush=True)
        app = make_app(folder, {host, shown, *name}, token)
        settings = uvicorn.Config(
            app,
            loop="asyncio",  # whatever else is installed: one that is tried
            http="h11",
            log_level="critical",
            timeout_graceful_shutdown=1,
            access_log=False,
        )
        uvicorn.Server(settings).run(sockets=[listener])
    return 0


def _near(port: int) -> str:
    return f"From another machine: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE, then the same address. Ctrl-C ends it."


def _listening(host: str, port: int) -> socket.socket:
    """Raises: UserError if nothing there is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = OSError("no port was tried")
    for number in range(port, port + 20) if port else (0,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(128)  # before the address is told: who is quick waits, and is not refused
            return listener
        except (OSError, OverflowError) as error:
            listener.close()
            last = error if isinstance(error, OSError) else OSError(str(error))
    raise UserError(f"Nothing can listen at {host}:{port} ({last.strerror or last}).") from None
