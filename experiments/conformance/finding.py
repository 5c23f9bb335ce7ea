"""The result of one check of one optimizer."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """The answer of a check, and a note: the reason of a `no`, or a measured value."""

    answer: Literal["yes", "no", "not applicable"]
    note: str = ""
