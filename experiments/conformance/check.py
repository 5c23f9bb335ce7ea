"""The command `check`: how optimizers behave, as a table."""

import os
from importlib.util import find_spec

import torch
from tabulate import tabulate

from experiments.conformance.children import ChildDiedError, TooSlowError, in_child, in_pair
from experiments.conformance.finding import Finding
from experiments.conformance.manners import DEFAULT_LR, MANNERS, check_manners
from experiments.conformance.processes import check_pair
from experiments.conformance.trial import MODEL, STEPS
from experiments.optimizers.settings import (
    OptimizerSettings,
    OptimizerSpec,
    how_to_install,
    optimizer_spec,
)
from experiments.settings import ConfigError

NAMES = (*MANNERS, "ddp", "fsdp")
_MEASURED = ("state", "nan")  # checks whose note tells more than a yes

Findings = dict[str, Finding]  # by the names in NAMES


def check(optimizers: dict[str, OptimizerSettings], names: list[str]) -> bool:
    """Check optimizers and print how they behave.

    Args:
        optimizers: the registry.
        names: the entries to check; all of them if empty, then without those that cannot run here.

    Returns:
        Whether exactly those checks fail that the registry says fail.

    Raises:
        ConfigError: a name is not in the registry, or its optimizer cannot run here.
    """
    # torch then looks for GPUs without CUDA, which a process that forks must not initialise:
    # https://docs.pytorch.org/docs/stable/generated/torch.cuda.is_available.html
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in names:
        if name not in optimizers:
            accepted = ", ".join(optimizers)
            raise ConfigError((), f"--optimizer has {name!r}, but it must be one of {accepted}")
        if reason := _cannot_run(optimizers[name]):
            raise ConfigError(("optimizers", name), reason)
    found: dict[str, Findings] = {}
    for name in names or optimizers:
        if reason := _cannot_run(optimizers[name]):
            print(f"{name} {reason}", flush=True)
            continue
        found[name] = findings(name, optimizers[name])
        print(f"checked {name}", flush=True)
    known = {name: optimizers[name].known_no for name in found}
    print("", _overview(found, known) if len(found) > 1 else _details(found, known), sep="\n")
    problems = [
        f"{name}: {problem}" for name in found for problem in _problems(found[name], known[name])
    ]
    print(*problems, sep="\n")
    return not problems


def findings(name: str, entry: OptimizerSettings) -> Findings:
    """Return the finding of every check of an entry, by the names in `NAMES`.

    Args:
        name: name of the entry.
        entry: its settings.
    """
    try:
        spec = optimizer_spec(name, entry, MODEL, steps=STEPS)
    except ConfigError as error:  # an argument refers to a field that only other models have
        found = {"imports": Finding("no", str(error))}
    else:
        lr, found = _manners(spec)
        if found["imports"].answer == "yes":
            for strategy in ("ddp", "fsdp"):
                found[strategy] = _pair(spec, lr, strategy, entry)
    not_reached = Finding("not applicable", "it cannot be made")
    return {check: found.get(check, not_reached) for check in NAMES}


def _manners(spec: OptimizerSpec) -> tuple[float, Findings]:
    """Check an optimizer in one process; in one for each check if the optimizer ends its process.

    All checks share a process where they can, because some libraries take seconds to import.
    """
    try:
        return in_child(check_manners, spec)
    except TooSlowError as error:
        return DEFAULT_LR, {"imports": Finding("no", str(error))}
    except ChildDiedError:
        lr, found = DEFAULT_LR, {}
    for name in MANNERS:
        try:
            lr, finding = in_child(check_manners, spec, [name], lr)
        except ChildDiedError as error:
            finding = {name: Finding("no", str(error))}
        found |= finding
        if found["imports"].answer == "no":
            break
    return lr, found


def _pair(spec: OptimizerSpec, lr: float, strategy: str, entry: OptimizerSettings) -> Finding:
    """Check an optimizer in two processes."""
    if spec.closure:
        return Finding("not applicable", "a closure needs one process")
    if entry.extra == "field-gpu":
        return Finding("not applicable", "two processes would need two GPUs")
    if strategy == "fsdp" and not entry.sharded:
        return Finding("not applicable", "the entry says sharded: false")
    try:
        pair = in_pair(check_pair, spec, lr, strategy)
    except ChildDiedError as error:
        return Finding("no", str(error))
    return min(pair, key=lambda each: (each[0].answer == "yes", each[1]))[0]


def _cannot_run(entry: OptimizerSettings) -> str:
    """Return why an entry of an extra cannot run here, as the end of a sentence; "" if it can."""
    tops = {path.partition(".")[0] for path in entry.classes}
    if entry.extra and not all(map(find_spec, tops)):
        return f"needs the extra {entry.extra}: {how_to_install(entry.extra)}"
    if entry.extra == "field-gpu" and not torch.cuda.is_available():
        return "needs an NVIDIA GPU, but there is none here"
    return ""


def _problems(found: Findings, known: dict[str, str]) -> list[str]:
    """Return the checks that fail unexpectedly, and those that are said to fail but do not."""
    failed = [
        f"{check} fails: {finding.note}"
        for check, finding in found.items()
        if finding.answer == "no" and check not in known
    ]
    passed = [
        f"known_no.{check} says {reason!r}, but the check passes: remove it"
        for check, reason in known.items()
        if check in found and found[check].answer == "yes"
    ]
    unknown = [
        f"known_no has {check!r}, but it must be one of {', '.join(NAMES)}"
        for check in known
        if check not in NAMES
    ]
    return failed + passed + unknown


def _details(found: dict[str, Findings], known: dict[str, dict[str, str]]) -> str:
    """Return the findings of one optimizer, a line for each check."""
    rows = [
        [check, _answer(finding, check in known[name]), _reason(finding, known[name].get(check))]
        for name, each in found.items()
        for check, finding in each.items()
    ]
    return tabulate(rows, ["check", "answer", ""], tablefmt="github")


def _overview(found: dict[str, Findings], known: dict[str, dict[str, str]]) -> str:
    """Return a line for each optimizer, and beneath the reasons of what fails."""
    rows = [
        [
            name,
            *(_cell(check, finding, check in known[name]) for check, finding in each.items()),
        ]
        for name, each in found.items()
    ]
    reasons = [
        f"- {name}, {check}: {_reason(finding, known[name].get(check))}"
        for name, each in found.items()
        for check, finding in each.items()
        if finding.answer == "no"
    ]
    return "\n".join([tabulate(rows, ["", *NAMES], tablefmt="github"), "", *reasons])


def _cell(check: str, finding: Finding, is_known: bool) -> str:
    """Return what stands for a finding in a table where there is no room for notes."""
    if finding.answer == "not applicable":
        return "–"
    is_measured = check in _MEASURED and finding.answer == "yes"
    return finding.note if is_measured else _answer(finding, is_known)


def _reason(finding: Finding, known: str | None) -> str:
    return known if known and finding.answer == "no" else finding.note


def _answer(finding: Finding, is_known: bool) -> str:
    return f"known {finding.answer}" if is_known and finding.answer == "no" else finding.answer
