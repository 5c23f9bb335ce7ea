"""Assigns each parameter of a model to one group of its optimizer."""

import re

from torch import nn

from experiments.optimizers.settings import GroupSpec, OptimizerSpec, Role
from experiments.settings import ConfigError

Named = dict[str, nn.Parameter]  # parameters by name, in the model's order
_SHOWN = 4  # names of parameters that a message lists


def roles(model: nn.Module) -> dict[str, Role]:
    """Return the role of each parameter by its name.

    A matrix that is both embedding and output layer is an embedding. The bias of a norm belongs to
    the norms; any other vector is a bias. All other parameters, such as the matrices of attention,
    feed-forward blocks, experts and routers, are hidden matrices.
    """
    found: dict[str, Role] = {}
    for path, module in model.named_modules():
        for name, param in module.named_parameters(path, recurse=False):
            found[name] = _role(path, module, param)
    return {name: found[name] for name, _ in model.named_parameters()}


def _role(path: str, module: nn.Module, param: nn.Parameter) -> Role:
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if "norm" in type(module).__name__.lower():
        return "norms"
    if param.ndim < 2:
        return "biases"
    return "output" if path.rpartition(".")[2] == "lm_head" else "hidden_matrices"


def partition(spec: OptimizerSpec, model: nn.Module) -> list[Named]:
    """Return the parameters of each group of `spec`, in the order of its groups.

    Raises:
        ConfigError: a group matches no parameter, two match the same one, or none matches one.
    """
    where = ("optimizers", spec.name, "groups")
    role_of = roles(model)
    found: list[Named] = [{} for _ in spec.groups]
    missed = []
    for name, param in model.named_parameters():
        matching = [i for i, group in enumerate(spec.groups) if _matches(group, name, role_of)]
        if len(matching) > 1:
            first, second = matching[:2]
            raise ConfigError(
                (*where, str(second)),
                f"matches {name}, and so does groups.{first}: each parameter must be in exactly one"
                " group",
            )
        if matching:
            found[matching[0]][name] = param
        else:
            missed.append(name)
    if missed:
        raise ConfigError(
            where, f"match none of {_listed(missed)}: each parameter must be in exactly one group"
        )
    for index, named in enumerate(found):
        if not named:
            has = ", ".join(dict.fromkeys(role_of.values()))
            raise ConfigError(
                (*where, str(index)),
                f"matches no parameter of the model, which has the roles {has} and names such as"
                f" {_listed([*role_of])}",
            )
    return found


def _matches(group: GroupSpec, name: str, role_of: dict[str, Role]) -> bool:
    if group.names is not None:
        return re.search(group.names, name) is not None
    return role_of[name] in group.roles


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
