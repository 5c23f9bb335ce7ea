"""Colours, dashes and markers: one style for each optimizer, and styles for ordered values."""

from collections.abc import Iterable

import seaborn as sns

Style = dict[str, object]

_SOLID, _LONG, _DASHED, _DOTTED = "-", (0, (8, 1.5)), (0, (4, 1.5)), (0, (1, 1))
_DASH_DOT, _DASH_DOT_DOT, _SHORT = (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 1))
_CYCLE = (_SOLID, _DASHED, _DASH_DOT, _DOTTED, _DASH_DOT_DOT, _SHORT)

# Colours from the palettes of Okabe and Ito and of Tol ("muted"), which colour-blind readers can
# distinguish. Dashes and markers differ as well, for prints in grey.
_STYLES = {
    "adamw": ("#000000", _LONG, "o"),
    "adamw-int8": ("#000000", _DOTTED, "X"),
    "adamw-8bit-bnb": ("#332288", _DASHED, ">"),
    "adamw-8bit-torchao": ("#56b4e9", _DASH_DOT, "p"),
    "adamw-4bit": ("#882255", _SHORT, "*"),
    "adamw-flash": ("#000000", _DASH_DOT, "$f$"),
    "adamw-schedule-free": ("#7f7f7f", _SOLID, "$s$"),
    "adamw-cautious": ("#7f7f7f", _DASH_DOT, "$c$"),
    "adam": ("#7f7f7f", _DASHED, "o"),
    "powerstep": ("#d55e00", _SOLID, "s"),
    "powerstep-int8": ("#e69f00", _DASHED, "D"),
    "powerstep-bf16": ("#e69f00", _DOTTED, "d"),
    "powerstep-int4": ("#a63603", _SHORT, "P"),
    "adafactor": ("#0072b2", _DOTTED, "^"),
    "lion": ("#009e73", _DASH_DOT, "v"),
    "adam-mini": ("#cc79a7", _DASH_DOT_DOT, "<"),
    "came": ("#999933", _DASH_DOT_DOT, "h"),
    "ademamix": ("#aa4499", _SOLID, "$a$"),
    "adopt": ("#aa4499", _DASHED, "$d$"),
    "mars": ("#cc6677", _SOLID, "$M$"),
    "soap": ("#0072b2", _SOLID, "$S$"),
    "prodigy": ("#44aa99", _LONG, "$P$"),
    "scion": ("#44aa99", _DOTTED, "$i$"),
    "adams": ("#56b4e9", _DASHED, ">"),
    "adams-bias-corrected": ("#56b4e9", _SHORT, "p"),
    "signsgd": ("#882255", _DOTTED, "*"),
    "pbsgdm": ("#117733", _DASH_DOT_DOT, "h"),
    "pbsgdm-decay-in-momentum": ("#117733", _DASH_DOT, "H"),
    "stacey": ("#332288", _DASHED, "8"),
    "stacey-dual-in-direction": ("#332288", _DOTTED, "$+$"),
    "muon": ("#999933", _SOLID, "$m$"),
    "muon-powerstep": ("#999933", _DASHED, "$p$"),
    "muon-torch": ("#999933", _DOTTED, "$t$"),
    "normuon": ("#999933", _DASH_DOT, "$n$"),
}
_OTHER_COLORS = sns.color_palette("husl", 8).as_hex()


def style_of(optimizer: str) -> Style:
    """Return the colour, line style and marker of an optimizer.

    The style of an optimizer that is not in the list depends on its name alone.
    """
    other = (_OTHER_COLORS[sum(optimizer.encode()) % len(_OTHER_COLORS)], _SOLID, ".")
    color, linestyle, marker = _STYLES.get(optimizer, other)
    return {"color": color, "linestyle": linestyle, "marker": marker}


def distinct_colors(optimizers: Iterable[str]) -> dict[str, object]:
    """Return a colour for each optimizer: its own, or another where a former one has it already."""
    colors: dict[str, object] = {}
    for optimizer in optimizers:
        others = [color for color in _OTHER_COLORS if color not in colors.values()]
        own = style_of(optimizer)["color"]
        colors[optimizer] = own if own not in colors.values() else others[0]
    return colors


def ordered_styles(number: int) -> list[Style]:
    """Return styles for ordered values: colours from light to dark, with different dashes."""
    colors = sns.color_palette("flare", number).as_hex()
    return [
        {"color": color, "linestyle": _CYCLE[i % len(_CYCLE)], "marker": "."}
        for i, color in enumerate(colors)
    ]


def dash_pattern(number: int) -> object:
    """Return the dashes of the line with this index, for lines of the same colour."""
    return _CYCLE[number % len(_CYCLE)]
