"""A strict YAML loader, and the line of a setting in a file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from experiments.settings import Ambiguous, ConfigError, Keys

_TAG = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT, _STR = (
    f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str")
)
_MERGE = f"{_TAG}merge"
_AMBIGUOUS = "!ambiguous"


class StrictLoader(yaml.SafeLoader):
    """A safe loader of mappings, lists, text, decimal numbers, true, false and null.

    PyYAML follows YAML 1.1, in which 1e-3 is text; here it is a number. Unquoted text that YAML 1.1
    reads as another type (010, 1:30, 1_000, yes, 2024-01-01) becomes Ambiguous. A key is always
    text, as written in the file. A duplicate key is an error, but a key may override a merged one
    (`<<: *anchor`).
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    yaml_constructors: ClassVar[dict[str, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (_NULL, _BOOL, _INT, _FLOAT, _STR, f"{_TAG}seq", f"{_TAG}map", None)
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Compose a node, or raise if an anchor contains itself."""
        node = super().compose_node(parent, index)
        if node.end_mark is None:  # an alias of a node that is still being composed
            raise _error("an anchor contains itself", node)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Compose a mapping whose keys are text, or raise if a key is duplicated.

        Merged keys are added here. PyYAML does it when it constructs the mapping, and mixes up
        which key overrides which (https://github.com/yaml/pyyaml/issues/953).
        """
        node = super().compose_mapping_node(anchor)
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key must be text", key)
            if key.value in pairs:
                raise _error(f"the key {key.value!r} stands twice", key)
            is_merge = key.tag == _MERGE
            text = yaml.ScalarNode(_STR, key.value, key.start_mark, key.end_mark)
            pairs[key.value] = (key if is_merge else text, value)
        if (merge := pairs.get("<<")) and merge[0].tag == _MERGE:
            del pairs["<<"]
            for pair in _merged(merge[1]):
                pairs.setdefault(pair[0].value, pair)
        node.value = list(pairs.values())
        return node


def _merged(value: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return the keys and values of the mapping, or of the list of mappings, that is merged."""
    mappings = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for mapping in mappings:
        if not isinstance(mapping, yaml.MappingNode):
            raise _error("<< must be a mapping, or a list of mappings", mapping)
    return [pair for mapping in mappings for pair in mapping.value]


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class StrictDumper(yaml.SafeDumper):
    """A safe dumper that quotes text which StrictLoader would read as something else."""

    yaml_implicit_resolvers = StrictLoader.yaml_implicit_resolvers


for _tag, _pattern, _first in (
    (_BOOL, "true|True|TRUE|false|False|FALSE", "tTfF"),
    (_INT, r"[-+]?(0|[1-9]\d*)", "-+0123456789"),
    (_FLOAT, r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?", "-+.0123456789"),
    (_FLOAT, r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    # Octal numbers of YAML 1.2, and values as Python writes them.
    (_AMBIGUOUS, r"[-+]?0o?\d+|None|[-+]?(?i:inf|nan)", "-+0123456789INin"),
):
    StrictLoader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$", re.ASCII), [*_first])
for _first, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _is_kept = _tag in (_NULL, _MERGE)
        StrictLoader.add_implicit_resolver(_tag if _is_kept else _AMBIGUOUS, _pattern, [_first])
StrictLoader.add_constructor(
    _AMBIGUOUS, lambda loader, node: Ambiguous(loader.construct_scalar(node))
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: the file cannot be read, is not valid YAML or holds something else.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        values = yaml.load(text, Loader=StrictLoader)
    except OSError as error:
        raise ConfigError((), f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _invalid(path, line, "it must be UTF-8 text") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _invalid(path, line, f"it has the control character {error.character:#x}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise _invalid(path, mark.line + 1, problem) from None
    if not isinstance(values, dict):
        content = "empty" if values is None else f"a {type(values).__name__}"
        raise ConfigError(
            (), f"{path.name} is {content}, but it must be a mapping of keys to values"
        )
    return values


def _invalid(path: Path, line: int, problem: str) -> ConfigError:
    return ConfigError((), f"{path.name} is not valid YAML in line {line}: {problem}")


def located(error: ConfigError, *paths: Path) -> ConfigError:
    """Return an error whose sentence begins with a file and, if found, a line.

    An error without a field, and a FileError, names its own file: it is returned as it is.

    Args:
        error: about a setting of one of the files.
        paths: YAML files; the line is in the one that has most of the keys of the field.
    """
    if not error.field:
        return error
    found = [(place, path) for path in paths if (place := _place(path, error.field))]
    if not found:
        return ConfigError((), f"{paths[0].name}: {error}")
    (_, line), path = max(found, key=lambda place: place[0][0])
    return ConfigError((), f"{path.name}, line {line}: {error}")


def _place(path: Path, field: Keys) -> tuple[int, int] | None:
    try:
        return line_of(path.read_text(encoding="utf-8"), field)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the error is about another file


def line_of(text: str, field: Keys) -> tuple[int, int] | None:
    """Find the line of a field, or of the deepest of its keys that is there.

    Args:
        text: YAML that the loader can read.
        field: keys and list indices, outermost first.

    Returns:
        How many of its keys are there, and the line of the last of them, counted from 1; None if
        its first key is not there.
    """
    node, place = yaml.compose(text, Loader=StrictLoader), None
    for depth, key in enumerate(field, start=1):
        found = [(mark, value) for name, mark, value in _children(node) if name == key]
        if not found:
            break
        mark, node = found[-1]
        place = (depth, mark.line + 1)
    return place


def _children(node: yaml.Node) -> Iterator[tuple[str, yaml.Mark, yaml.Node]]:
    """Yield name, place and value of the items of a list or a mapping."""
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield str(i), item.start_mark, item
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, key.start_mark, value
