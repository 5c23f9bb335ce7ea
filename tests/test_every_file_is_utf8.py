"""Text is written and read as UTF-8, whatever the locale."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def is_in_the_locales_encoding(call):
    """Return whether a call reads or writes text without an explicit encoding."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in ("open", "fdopen") and ast.unparse(call.func) != "os.open":
        arguments = [*call.args, *keywords.values()]
        modes = [str(part.value) for part in arguments if isinstance(part, ast.Constant)]
        is_text = not any("b" in mode for mode in modes)
    else:
        is_text = name in ("read_text", "write_text") or "text" in keywords
    return is_text and "encoding" not in keywords


def calls(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def test_no_text_is_in_the_locales_encoding():
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for folder in ("analysis", "experiments", "powerstep")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in calls(path.read_text(encoding="utf-8"))
        if is_in_the_locales_encoding(call)
    ]
    assert found == []
