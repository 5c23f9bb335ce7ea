"""PyYAML's safe loader, with two surprises taken out."""

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
