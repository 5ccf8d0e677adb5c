"""LearnedOptimizer: any rule, learned or not, as an optimizer of torch."""

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.adapt import Rule, check_rule
from quickstudy.core.arguments import check_whole
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.kernels.torch_private import pytree
from quickstudy.optimizer.weights import load_rule


class LearnedOptimizer(torch.optim.Optimizer):
    r"""A torch optimizer that takes the steps of an update rule U.

    $$\theta \leftarrow \theta + \eta\,(U(\theta, \nabla L) - \theta) - \eta\,\lambda\,\theta$$

    A rule that is a module is frozen: copied, in evaluation mode. Parameter groups, schedules, closures,
    `state_dict` and `copy.deepcopy` work as for any optimizer; a parameter without gradient and its state are
    left unchanged. A step is taken as a whole: after an error in it nothing has moved. Arithmetic and state
    have the precision of the parameters, but at least float32.

    Two optional attributes of a rule are respected:

    - `coordinatewise = True`, as `LSTMRule`, `RNNpropRule` and `MLPRule` have it: the rule may be called with
      small tensors concatenated and large ones in parts, as coordinates [C], with states [..., C]. A state
      that is a plain number, or has no dimensions, must depend on the number of steps only.
    - `needs_loss = True`: the rule gets the loss that the closure returns. Other rules get nan.

    A rule that is not coordinatewise is called with one parameter at a time, under its name if the optimizer
    is made from `model.named_parameters()`. So a rule that lets parameters depend on each other behaves
    differently here than in `adapt`.

    Args:
        params: Tensors, names and tensors, or groups, as for any torch optimizer.
        rule: An update rule, or the name or path of a learned one, as in `load_rule`.
        lr: Factor η ≥ 0 of the rule's own steps. May be set for each group.
        weight_decay: Weight decay λ ≥ 0. May be set for each group. It is decoupled and multiplied by η, as
            in AdamW, but there η is the length of a step: AdamW's 0.01 at a rate of 0.001 is 0.00001 here.
        horizon: Number of steps that the rule was trained for; the optimizer warns once when it takes more.
            By default it is read from the rule's file, if there is one.

    Raises:
        TypeError: If the rule is none, such as a number or an optimizer of torch.
        ValueError: If a number is out of range, a parameter is complex or overlaps itself in memory, or a
            gradient is sparse; if the rule needs the loss, and `step` gets no closure that returns it.
        FileNotFoundError: If there is no such rule.

    Example:
        >>> import torch
        >>> from quickstudy.optimizer.torch_optimizer import LearnedOptimizer
        >>> from quickstudy.core.update_rules import sgd
        >>> theta = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = LearnedOptimizer([theta], sgd(0.5), lr=0.5)
        >>> theta.square().sum().backward()
        >>> optimizer.step()
        >>> theta.tolist()
        [0.5, -1.0]

    Reference: Andrychowicz et al.: "Learning to learn by gradient descent by gradient descent", 2016;
    Loshchilov, Hutter: "Decoupled Weight Decay Regularization", 2019.
    """

    def __init__(
        self,
        params: Any,
        rule: Rule | str | os.PathLike[str],
        lr: float = 1.0,
        weight_decay: float = 0.0,
        horizon: int | None = None,
    ) -> None:
        if isinstance(rule, str | os.PathLike):
            rule, card = load_rule(rule)
            horizon = card.get("horizon") if horizon is None else horizon
        check_rule(rule)
        check_whole(None, horizon=horizon)
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon is {horizon}: at least 1, or None where the rule knows no end")
        frozen: Any = rule
        if isinstance(rule, nn.Module):
            frozen = copy.deepcopy(rule).eval().requires_grad_(False)
        self.rule: Rule = frozen
        self.horizon = horizon
        self._warned = False
        self._copies: dict[tuple[torch.device, torch.dtype], Rule] = {}
        self._forms: dict[str, pytree.TreeSpec] = {}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles; a rule to be pickled must be a module, not local functions."""
        own = {"rule": self.rule, "horizon": self.horizon, "_warned": self._warned}
        return super().__getstate__() | own | {"_copies": {}, "_forms": {}}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in torch.

        Args:
            param_group: Group with `params`, and optionally its own `lr` and `weight_decay`.

        Raises:
            ValueError: If a number is out of range or a parameter is not real.
        """
        lr = param_group.get("lr", self.defaults["lr"])
        decay = param_group.get("weight_decay", self.defaults["weight_decay"])
        if isinstance(lr, str) or isinstance(decay, str) or not (0 <= lr < inf and 0 <= decay < inf):
            raise ValueError(f"lr is {lr} and weight_decay {decay}: both must be 0 or more")
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if not p.is_floating_point():
                self.param_groups.pop()
                raise ValueError(f"a parameter {list(p.shape)} is of {p.dtype}: rules take real numbers only")
            if any(n > 1 and not stride for n, stride in zip(p.shape, p.stride(), strict=True)):
                self.param_groups.pop()
                raise ValueError(
                    f"a parameter {list(p.shape)} is expanded, several of its numbers lie in one place: "
                    "make it "
                    "of expanded.clone()"
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state, as in torch, but in its own precision.

        Args:
            state_dict: State that `state_dict()` returned, for the same groups and rule.

        Raises:
            ValueError: If the groups differ, or the state is that of another rule.
        """
        # torch casts the state to the type of each parameter. To restore it in its own precision, this hook
        # notes the dictionary as loaded; as it is registered last, it sees the changes of all other hooks.
        seen: dict[str, Any] = {}
        hook = self.register_load_state_dict_pre_hook(lambda _, final: seen.update(final))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        saved = [i for group in seen["param_groups"] for i in group["params"]]
        own = [member for group in self.param_groups for member in _members(group)]
        for i, (p, name) in zip(saved, own, strict=True):
            if i in seen["state"]:
                self.state[p] = self._restored(p, name, seen["state"][i])

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: Function that clears the gradients, computes the loss and its gradients, and returns the
                loss.

        Returns:
            The value that the closure returned, or None without one.

        Raises:
            ValueError: If a gradient is sparse, or the rule needs the loss and the closure returns none.
        """
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        loss = self._loss(value)
        self._check_gradients()
        steps: list[_Step] = []
        with torch.no_grad():
            for group in self.param_groups:
                by_kind: dict[tuple[torch.device, torch.dtype, int], list[tuple[Tensor, str]]] = {}
                for p, name in _members(group):
                    if p.grad is not None and p.numel():
                        kind = p.device, _working_dtype(p), self._count(p, name)
                        by_kind.setdefault(kind, []).append((p, name))
                for (device, dtype, _), members in by_kind.items():
                    with torch.autocast(device.type, enabled=False):
                        rule = self._on(device, dtype)
                        steps += self._advance(rule, members, group, loss.to(dtype).to(device))
            # from here on nothing is computed that could fail, so a step is whole or not at all
            for p, after, state in steps:
                p.copy_(after)
                self.state[p].update(state, step=self.state[p]["step"] + 1)
        return value

    def _loss(self, value: Any) -> Tensor:
        if not getattr(self.rule, "needs_loss", False):
            return torch.tensor(torch.nan)
        if value is None:
            raise ValueError(
                f"{type(self.rule).__name__} needs the loss: give step a closure that computes the loss and "
                "its gradients and returns the loss"
            )
        loss = value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        if loss.numel() != 1:
            raise ValueError(f"the closure returned a loss {list(loss.shape)}: it must be a single number")
        return loss.reshape(())

    def _check_gradients(self) -> None:
        """Refuse sparse gradients, before any parameter is changed."""
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is not None and p.grad.layout != torch.strided:
                raise ValueError(
                    f"the gradient of a parameter {list(p.shape)} is {p.grad.layout}, and rules take dense "
                    "ones only: make the embedding with sparse=False"
                )

    def _on(self, device: torch.device, dtype: torch.dtype) -> Rule:
        """The rule on the device and in the precision of parameters."""
        if not isinstance(self.rule, nn.Module):
            return self.rule
        if (device, dtype) not in self._copies:
            moved: Any = copy.deepcopy(self.rule).to(device, dtype)
            self._copies[device, dtype] = moved
        return self._copies[device, dtype]

    def _fresh(self, p: Tensor, name: str) -> list[Any]:
        """Leaves of a parameter's state before the first step."""
        theta, rule = p.detach().to(_working_dtype(p)), self._on(p.device, _working_dtype(p))
        leaves, self._forms[name] = pytree.tree_flatten(
            rule.init({name: theta.flatten() if self._coordinatewise else theta})
        )
        return [_own(leaf) for leaf in leaves]

    def _count(self, p: Tensor, name: str) -> int:
        """Number of the step that a parameter is about to take; makes its state if there is none."""
        state = self.state[p]
        if not state:
            state.update({"step": 0} | _numbered(self._fresh(p, name)))
        elif name not in self._forms:
            self._fresh(p, name)
        count: int = state["step"] + 1
        if self.horizon is not None and count > self.horizon and not self._warned:
            self._warned = True
            warnings.warn(
                f"the rule was trained for {self.horizon} steps, and this is step {count}: it may "
                "stop learning or diverge from here on; go on with another optimizer, or take a rule trained "
                "for longer",
                stacklevel=4,
            )
        return count

    def _restored(self, p: Tensor, name: str, saved: dict[str, Any]) -> dict[str, Any]:
        fresh = _numbered(self._fresh(p, name))
        theirs = {k: getattr(v, "shape", ()) for k, v in saved.items() if k != "step"}
        if theirs != {k: getattr(v, "shape", ()) for k, v in fresh.items()}:
            raise ValueError(
                f"the state of a parameter {list(p.shape)} is not of this rule, {type(self.rule).__name__}: "
                "load it into an optimizer with the rule that it was made by"
            )
        return {"step": int(saved["step"])} | {k: _like(v, saved[k]) for k, v in fresh.items()}

    @property
    def _coordinatewise(self) -> bool:
        return getattr(self.rule, "coordinatewise", False)

    def _advance(
        self, rule: Rule, members: Sequence[tuple[Tensor, str]], group: dict[str, Any], loss: Tensor
    ) -> "list[_Step]":
        """The step of parameters with the same number of past steps, device and precision."""
        if self._coordinatewise:
            return self._advance_coordinates(rule, [p for p, _ in members], members[0][1], group, loss)
        steps: list[_Step] = []
        for p, name in members:
            assert p.grad is not None  # `step` chose these members by their gradients
            theta = p.detach().to(loss.dtype)
            g = p.grad.detach().to(loss.dtype)
            before = pytree.tree_unflatten(_leaves(self.state[p]), self._forms[name])
            after, state = rule.update({name: g}, before, {name: theta}, loss)
            leaves = _numbered([_own(leaf) for leaf in pytree.tree_leaves(state)])
            steps.append((p, _towards(after[name], theta, group).expand_as(p), leaves))
        return steps

    def _advance_coordinates(
        self, rule: Rule, members: Sequence[Tensor], name: str, group: dict[str, Any], loss: Tensor
    ) -> "list[_Step]":
        # copies: `flatten` gives a view of some parameters and a copy of others, depending on their strides
        thetas = [_own(p.detach()).flatten().to(loss.dtype) for p in members]
        gradients = [p.grad.flatten().to(loss.dtype) for p in members if p.grad is not None]
        states = [[_own(leaf) for leaf in _leaves(self.state[p])] for p in members]
        leaves: list[Any] = []
        at_once = sizes_on(loss.device.type).optimizer_coordinates
        for part in _parts([len(theta) for theta in thetas], at_once):
            theta = _joined([thetas[i][s] for i, s in part])
            g = _joined([gradients[i][s] for i, s in part])
            before = [
                _joined([states[i][k][..., s] for i, s in part]) if _has_coordinates(leaf) else leaf
                for k, leaf in enumerate(states[0])
            ]
            after, state = rule.update(
                {name: g}, pytree.tree_unflatten(before, self._forms[name]), {name: theta}, loss
            )
            leaves = pytree.tree_leaves(state)
            sizes = [s.stop - s.start for _, s in part]
            for k, leaf in enumerate(leaves):
                if _has_coordinates(leaf):
                    for (i, s), own in zip(part, leaf.split(sizes, -1), strict=True):
                        states[i][k][..., s] = own
            for (i, s), own in zip(part, _towards(after[name], theta, group).split(sizes), strict=True):
                thetas[i][s] = own
        numbers = {k: v for k, v in _numbered(leaves).items() if not _has_coordinates(v)}
        return [
            (p, theta.view(p.shape), _numbered(state) | {k: _own(v) for k, v in numbers.items()})
            for p, theta, state in zip(members, thetas, states, strict=True)
        ]


_Step = tuple[Tensor, Tensor, dict[str, Any]]
"""A parameter, what it becomes, and the leaves of its state after the step."""


def _members(group: dict[str, Any]) -> Iterator[tuple[Tensor, str]]:
    """Parameters of a group and their names; unnamed parameters are all called "parameter"."""
    names = group.get("param_names") or ["parameter"] * len(group["params"])
    return zip(group["params"], names, strict=True)


def _working_dtype(p: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)


def _numbered(leaves: Sequence[Any]) -> dict[str, Any]:
    """Leaves of a state under the keys "0", "1", …, as torch expects a flat dictionary for each parameter."""
    return {str(k): leaf for k, leaf in enumerate(leaves)}


def _leaves(state: dict[str, Any]) -> list[Any]:
    """Inverse of `_numbered`, for a state that also has the entry "step"."""
    return [state[str(k)] for k in range(len(state) - 1)]


def _own(leaf: Any) -> Any:
    """A copy of a leaf: it must not share memory with parameters or gradients, which change in place."""
    return leaf.clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf


def _like(fresh: Any, saved: Any) -> Any:
    """A saved leaf with the device, precision and type of a fresh one."""
    return saved.to(fresh, copy=True) if isinstance(fresh, Tensor) else type(fresh)(saved)


def _has_coordinates(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), -1)


def _towards(after: Tensor, theta: Tensor, group: dict[str, Any]) -> Tensor:
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    new = torch.lerp(theta, after, lr)  # at a rate of 1 exactly where the rule goes
    return new.sub_(theta, alpha=lr * decay) if decay else new


def _parts(sizes: Sequence[int], at_once: int) -> Iterator[list[tuple[int, slice]]]:
    """Chunks of `at_once` coordinates, each as (index of a tensor, slice of it) pairs."""
    part: list[tuple[int, slice]] = []
    room = at_once
    for i, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(start + room, size)
            part.append((i, slice(start, stop)))
            start, room = stop, room - (stop - start)
            if not room:
                yield part
                part, room = [], at_once
    if part:
        yield part
