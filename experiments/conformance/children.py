"""Runs checks in processes of their own, so that a class can break nothing but its own check."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

_LONGEST = 300  # seconds until a check is given up


class ChildDiedError(RuntimeError):
    """A process ended without a result."""


class TooSlowError(ChildDiedError):
    """A process was ended because it took too long."""


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Return what `function` returns in a child process.

    The child is forked, so modules that are imported here need not be imported again.

    Raises:
        ChildDiedError: the process died; a TooSlowError if it took too long.
    """
    return _first_results([(function, args)])[0]


def in_pair(function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what `function(rank, *args, folder)` returns in two processes with ranks 0 and 1.

    Raises:
        ChildDiedError: a process died, or took too long.
    """
    with TemporaryDirectory() as folder:
        return _first_results([(function, (rank, *args, Path(folder))) for rank in range(2)])


def _first_results(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in calls]
    processes = [
        context.Process(target=_run, args=(sender, *call), daemon=False)
        for (_, sender), call in zip(pipes, calls, strict=True)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()  # so that a reader sees the end of a process
    try:
        return [
            _received(reader, process)
            for (reader, _), process in zip(pipes, processes, strict=True)
        ]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _received(reader: Connection, process: multiprocessing.Process) -> Any:
    if not wait([reader], _LONGEST):
        raise TooSlowError(f"it takes more than {_LONGEST} seconds")
    try:
        return reader.recv()
    except EOFError:
        process.join()
        raise ChildDiedError(f"its process dies with exit code {process.exitcode}") from None


def _run(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what a class prints must not mix with the table
        os.dup2(nothing, stream)
    torch.set_num_threads(1)
    sender.send(function(*args))
    sender.close()
