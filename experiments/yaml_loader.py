"""PyYAML's safe loader, with two surprises taken out, and where in a file something stands."""

import re
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """A safe loader that reads 1e-3 as a number and refuses a key that stands twice.

    YAML 1.1, which PyYAML reads, wants a dot and a sign in an exponent: 1e-3 would be a string.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, or raise where a key stands twice."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def line_of(text: str, field: str) -> tuple[int, int] | None:
    """Find the longest beginning of a dotted field in YAML.

    Keys may have dots themselves.

    Args:
        text: YAML that the loader can read.
        field: such as "by_model.qwen3-0.6b.layout"; what follows it does not matter.

    Returns:
        Its line, from 1, and how many keys deep it is; None if its first key is not there.
    """
    node, line, depth = yaml.compose(text, Loader=StrictLoader), 0, 0
    while isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            rest = field.removeprefix(str(key.value))
            if rest != field and not re.match(r"[\w-]", rest):  # not the beginning of another key
                field, node = rest.lstrip(".: "), value
                line, depth = key.start_mark.line + 1, depth + 1
                break
        else:
            break
    return (line, depth) if depth else None
