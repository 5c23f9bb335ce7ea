"""A process that has imported everything a run needs, and forks a child for each run.

It listens at a socket in a folder. A request asks for a command, `python -m package arguments`. It
is the length of a JSON object in 8 bytes, with the file descriptor of a log, and then the object:
`package`, `arguments`, `environment`, `working_directory`, and `modules` to import before the fork.
The answers are lines of JSON: `pid` from the child when it starts, and `code`, its exit code, from
the server. The child holds the connection open as well, so the connection ends no earlier than the
child, even if the server is killed.

The process starts no threads and does not touch CUDA, because neither survives a fork. If a module
of a request has touched CUDA, its children run new interpreters in their place. The process ends
when the lock owner.lock of the folder is free and no child lives, or when it was idle for IDLE
seconds.
"""

import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from experiments.files import is_locked

IDLE = 60  # seconds
_POLL = 1  # seconds between looks at the lock
_RECEIVE = 5  # seconds in which a request must arrive

# Without these, imports would start threads, or a look for a GPU would touch CUDA:
# https://docs.pytorch.org/docs/stable/generated/torch.cuda.is_available.html
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # NumPy
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # PyArrow's jemalloc
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


class ForkServer:
    """The server.

    Args:
        folder: folder of its socket and of the lock; removed at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listener = socket.socket(socket.AF_UNIX)
        path = folder / "socket"
        path.unlink(missing_ok=True)  # of a server that was killed
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd: pid, connection

    def serve(self) -> None:
        """Answer requests until the owner has ended or IDLE seconds have passed without a child."""
        last_used = time.monotonic()
        while self._children or self._is_wanted(last_used):
            for key, _ in self._selector.select(_POLL):
                last_used = time.monotonic()
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._report_end(key.fd)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_wanted(self, last_used: float) -> bool:
        return is_locked(self._folder / "owner.lock") and time.monotonic() - last_used < IDLE

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            connection.settimeout(_RECEIVE)
            request, log = _received(connection)
        except (OSError, ValueError):  # the launcher was killed
            connection.close()
            return
        for module in request["modules"]:
            with suppress(Exception):  # the child imports it again, and reports the error
                importlib.import_module(module)
        pid = os.fork()
        if pid == 0:
            self._become_child(connection, log, request)
        os.close(log)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (pid, connection)
        self._selector.register(pidfd, selectors.EVENT_READ)

    def _report_end(self, pidfd: int) -> None:
        pid, connection = self._children.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _answer(connection, {"code": code})
        connection.close()

    def _become_child(self, own: socket.socket, log: int, request: dict[str, Any]) -> NoReturn:
        """Run the command of a request in this process, as a new interpreter would, and exit."""
        code = 1
        try:
            # Connections of other children would seem open until this one ends.
            for pidfd, (_, connection) in self._children.items():
                os.close(pidfd)
                connection.close()
            self._selector.close()
            self._listener.close()
            _answer(own, {"pid": os.getpid()})
            for standard in (1, 2):
                os.dup2(log, standard)
            os.close(log)
            os.chdir(request["working_directory"])
            os.environ.clear()
            os.environ.update(request["environment"])
            if _touched_cuda():
                os.set_inheritable(own.fileno(), True)
                command = ["-m", request["package"], *request["arguments"]]
                os.execv(sys.executable, [sys.executable, *command])
            importlib.import_module(f"{request['package']}.__main__").main(request["arguments"])
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _touched_cuda() -> bool:
    """Return whether the parent of this fork has touched CUDA; importing torchao does, for one."""
    import torch  # late, because `serve` must set _ENVIRONMENT before

    return torch.cuda._is_in_bad_fork()


def _answer(connection: socket.socket, content: dict[str, int]) -> None:
    with suppress(OSError):  # the launcher was killed
        connection.sendall(json.dumps(content).encode() + b"\n")


def _received(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """Return a request and the file descriptor of its log."""
    start, descriptors, _, _ = socket.recv_fds(connection, 8, 1)
    size = int.from_bytes(start, "big")
    content = b""
    while len(content) < size:
        part = connection.recv(size - len(content))
        if not part:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ValueError("the request is incomplete")
        content += part
    (log,) = descriptors
    return json.loads(content), log


def serve(folder: Path) -> None:
    """Listen in a folder, import everything, and serve until the end.

    Args:
        folder: an empty folder with owner.lock.
    """
    # The launcher that started this process had signals blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    server = ForkServer(folder)
    os.environ.update(_ENVIRONMENT)
    from experiments.training.lightning_import import import_lightning

    import_lightning()
    for module in ("experiments.training.train", "pandas", "pyarrow.parquet"):
        importlib.import_module(module)
    server.serve()
