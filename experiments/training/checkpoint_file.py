"""The checkpoint file: written atomically, and checked for damage before it is loaded."""

import errno
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from experiments.files import FileError, atomic, set_aside


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in its folder, and renames it once it is on disk.

    Lightning itself writes to the system's temporary folder and moves the file from there. That is
    a copy if the folder is on another file system, and it fails if the folder is full
    (https://github.com/Lightning-AI/pytorch-lightning/issues/21253).
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; if this fails, the previous one is unchanged.

        Raises:
            FileError: the file cannot be written, for example on a full disk.
        """
        with atomic(path) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # After a failed write torch closes its archive; that fails too and hides the cause.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint onto the CPU; Lightning then moves it to its devices.

        Lightning passes a function as `map_location`. torch refuses that for tensor subclasses
        that wrap other tensors, such as the state of torchao's optimizers
        (https://github.com/pytorch/pytorch/pull/126728).
        """
        return super().load_checkpoint(path, "cpu", weights_only)


def set_aside_if_damaged(path: Path) -> Path | None:
    """Rename a damaged checkpoint, so that its run starts from the first step.

    Every byte is checked against the checksums in the file; torch.load does not check them.

    Returns:
        The new path; None if there is no checkpoint or it is undamaged.

    Raises:
        FileError: the file cannot be read.
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
            if error.errno == errno.EINVAL:  # the archive's directory is wrong
                return False
            raise
        except Exception:  # zipfile raises errors of many types on a damaged archive
            return False
