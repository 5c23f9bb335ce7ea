"""Commands of this package in warm processes: children of a fork server, which start quickly.

Snakemake's process offers a folder for the server; the first launcher starts it there.
"""

import atexit
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.files import FileError, locked
from experiments.memory import KEEP_FREED_MEMORY

_FOLDER = "POWERSTEP_FORK_SERVER"  # environment variable with the server's folder
_START = 120  # seconds that the server may take to import everything
_owned = []  # the open lock of this process


def offer_warm_processes() -> None:
    """Let the commands that this process starts share a fork server, which ends with it.

    There is none outside Linux: other systems do not support forks of such processes.
    """
    if sys.platform != "linux" or _owned:
        return
    folder = tempfile.mkdtemp(prefix="powerstep-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lock = open(Path(folder) / "owner.lock", "wb")  # noqa: SIM115 (open until this process ends)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _owned.append(lock)
    os.environ[_FOLDER] = folder


def start(
    package: str, arguments: Sequence[str], log: int, modules: Sequence[str] = ()
) -> "subprocess.Popen | WarmProcess":
    """Start `python -m package arguments`, warm if a fork server was offered.

    Args:
        package: experiments or analysis.
        arguments: the arguments of the command.
        log: file descriptor for its output.
        modules: modules that the server imports before, so that later commands have them too.
    """
    if folder := os.environ.get(_FOLDER):
        with suppress(OSError, FileError):  # then a cold start
            return WarmProcess(Path(folder), package, arguments, log, modules)
    return subprocess.Popen([sys.executable, "-m", package, *arguments], stdout=log, stderr=log)


def run(package: str, arguments: Sequence[str], modules: Sequence[str]) -> int:
    """Run a command as `start` does, with this process's output; return its exit code.

    SIGTERM and Ctrl-C end the command too.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = start(package, arguments, sys.stdout.fileno(), modules)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        raise
    return 1 if code is None else code


class WarmProcess:
    """A child of the fork server, with the methods of `subprocess.Popen` that launchers use.

    Raises:
        OSError: the server cannot be reached or started.
    """

    def __init__(
        self,
        folder: Path,
        package: str,
        arguments: Sequence[str],
        log: int,
        modules: Sequence[str],
    ) -> None:
        request = {
            "package": package,
            "arguments": list(arguments),
            "environment": dict(os.environ),
            "working_directory": os.getcwd(),
            "modules": list(modules),
        }
        content = json.dumps(request).encode()
        # A signal that came between would leave a child that nobody knows.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self._connection = _connected(folder)
            self._connection.settimeout(_START)
            socket.send_fds(self._connection, [len(content).to_bytes(8, "big")], [log])
            self._connection.sendall(content)
            self._answers = self._connection.makefile("rb")
            self.pid = json.loads(self._answers.readline() or b"{}").get("pid")
            if self.pid is None:
                raise ConnectionError("the fork server has ended")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code of the process when it has ended; None if the server was killed.

        Raises:
            subprocess.TimeoutExpired: it has not ended after `timeout` seconds.
        """
        self._connection.settimeout(timeout)
        try:
            return json.loads(self._answers.readline() or b"{}").get("code")
        except TimeoutError:
            raise subprocess.TimeoutExpired("experiments", timeout) from None
        except OSError:
            return None

    def terminate(self) -> None:
        """Send SIGTERM to the process."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _connected(folder: Path) -> socket.socket:
    """Return a connection to the server, which is started if it does not run."""
    address = str(folder / "socket")
    with locked(folder / "start.lock"):
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return _connect(address)
        server = subprocess.Popen(
            [sys.executable, "-m", "experiments", "fork-server", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "server.log").open("ab"),
            env=os.environ | KEEP_FREED_MEMORY,  # whichever command starts it, it trains too
            start_new_session=True,  # Ctrl-C is for the launchers, which stop their children
        )
        while server.poll() is None:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return _connect(address)
            time.sleep(0.02)
    raise ConnectionError(f"the fork server ended with exit code {server.returncode}")


def _connect(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
