"""The file of a checkpoint: written whole or not at all, and checked before it is loaded."""

import errno
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from experiments.files import FileError, atomic, set_aside


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there once it is on disk.

    Lightning itself writes to the system's temporary folder and moves the file from there, which
    is a copy where that is another file system, and fails where it has no room
    (https://github.com/Lightning-AI/pytorch-lightning/issues/21253).
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; where that fails, the one before it stays as it was.

        Raises:
            FileError: it cannot be written, such as on a full disk.
        """
        with atomic(path) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch closes its archive after a failed write, and complains of that instead.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint onto the CPU, from where Lightning moves it to its devices.

        Lightning asks for the CPU by a function, which torch refuses for tensors that are made of
        others, as torchao's optimizers keep them.
        """
        return super().load_checkpoint(path, "cpu", weights_only)


def set_aside_if_damaged(path: Path) -> Path | None:
    """Rename a checkpoint that is not as it was written, so that a run starts anew.

    Every byte is compared with the checksums in the file, which torch does not do when it loads it.

    Returns:
        Its new path; None where there is none, or it is whole.

    Raises:
        FileError: it cannot be read.
    """
    try:
        if not path.exists() or _is_whole(path):
            return None
    except OSError as error:
        raise FileError(
            f"{path} cannot be read: {error.strerror}; the same command goes on from it once it can"
            " be read, or trains the run anew once it is deleted"
        ) from error
    return set_aside(path)


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
        except OSError as error:
            if error.errno == errno.EINVAL:  # its table of contents names a place before its start
                return False
            raise
        except Exception:  # zipfile raises nearly anything on bytes that are no archive
            return False
