"""The inner loop and its rules: against torch's optimizers, closed forms and finite differences."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quickstudy.core.adapt import Adapted, FunctionalRule, Rule, Tensors, adapt
from quickstudy.core.update_rules import adam, heavy_ball, nag, rmsprop, sgd
from quickstudy.training.schedules import cosine_schedule
from tests.support.small_models import SavedForBackward


def start(requires_grad: bool = False) -> Tensors:
    rng = torch.Generator().manual_seed(0)
    shapes = {"matrix": (3, 2), "vector": (4,), "number": ()}
    return {
        k: torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_(requires_grad)
        for k, shape in shapes.items()
    }


def bowl(p: Tensors, step: int = 0) -> Tensor:
    """Neither quadratic nor separable; every step sees another one, as with minibatches."""
    ties = p["matrix"].sum() * p["number"] + (p["vector"] - step).square().mean() * p["number"].cos()
    return ties + sum((t**4).sum() for t in p.values()) / 4


def by_torch(
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int
) -> tuple[Tensors, Tensor]:
    """Where torch's optimizer gets to, and the losses before its steps."""
    p = start(requires_grad=True)
    stepper, losses = optimizer(list(p.values())), []
    for step in range(steps):
        stepper.zero_grad()
        loss = bowl(p, step)
        loss.backward()
        stepper.step()
        losses.append(loss.detach())
    return {k: t.detach() for k, t in p.items()}, torch.stack(losses)


RULES = {
    "sgd": (sgd(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "sgd-uphill": (sgd(-0.01), lambda p: torch.optim.SGD([{"params": p, "maximize": True}], 0.01)),
    "adam": (adam(0.1), lambda p: torch.optim.Adam(p, 0.1)),
    "adam-betas": (adam(0.02, 0.7, 0.9), lambda p: torch.optim.Adam(p, 0.02, (0.7, 0.9))),
    "adam-reptile": (adam(0.01, beta1=0.0), lambda p: torch.optim.Adam(p, 0.01, (0.0, 0.999))),
    "adam-eps": (adam(0.3, 0.5, 0.8, eps=0.1), lambda p: torch.optim.Adam(p, 0.3, (0.5, 0.8), eps=0.1)),
    "heavy-ball": (heavy_ball(0.05, 0.8), lambda p: torch.optim.SGD(p, 0.05, momentum=0.8)),
    "nag": (nag(0.05, 0.8), lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True)),
    "rmsprop": (rmsprop(0.02), lambda p: torch.optim.RMSprop(p, 0.02)),
    "rmsprop-decay": (rmsprop(0.02, 0.6, 0.1), lambda p: torch.optim.RMSprop(p, 0.02, 0.6, 0.1)),
    "adamw": (adam(0.1, weight_decay=0.3), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3)),
    "adam-no-memory": (adam(0.01, 0.0, 0.0), lambda p: torch.optim.Adam(p, 0.01, (0.0, 0.0))),
}


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", RULES)
def test_rules_take_the_steps_of_torchs_optimizers(name: str, steps: int, first_order: bool) -> None:
    rule, optimizer = RULES[name]
    expected, losses = by_torch(optimizer, steps)
    adapted = adapt(bowl, start(requires_grad=True), rule, steps, first_order)
    torch.testing.assert_close(adapted.parameters, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(adapted.losses, losses, rtol=1e-12, atol=1e-12)
    assert not adapted.losses.requires_grad


def test_a_schedule_multiplies_the_rate() -> None:
    falling = cosine_schedule(5)
    p = list(start(requires_grad=True).values())
    optimizer = torch.optim.AdamW(p, 0.1, weight_decay=0.3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, falling)
    for step in range(4):
        optimizer.zero_grad()
        bowl(dict(zip(start(), p, strict=True)), step).backward()
        optimizer.step()
        scheduler.step()
    adapted = adapt(bowl, start(), adam(0.1, weight_decay=0.3, schedule=falling), 4)
    torch.testing.assert_close(
        list(adapted.parameters.values()), [t.detach() for t in p], rtol=1e-12, atol=1e-12
    )


def test_rates_by_name() -> None:
    rates = {"matrix": 0.1, "vector": 0.02, "number": -0.01}
    expected, _ = by_torch(
        lambda p: torch.optim.SGD([{"params": [t], "lr": abs(r), "maximize": r < 0}
                                   for t, r in zip(p, rates.values(), strict=True)]),
        3,
    )  # fmt: skip
    adapted = adapt(
        bowl, start(), sgd({k: torch.tensor(r, dtype=torch.float64) for k, r in rates.items()}), 3
    )
    torch.testing.assert_close(adapted.parameters, expected, rtol=1e-12, atol=1e-12)


def test_rates_by_element() -> None:
    rates = {k: torch.rand(p.shape, dtype=torch.float64) - 0.5 for k, p in start().items()}
    p = start(requires_grad=True)
    gradients = torch.autograd.grad(bowl(p), list(p.values()))
    adapted = adapt(bowl, p, sgd(rates), 1)
    for (k, t), g in zip(p.items(), gradients, strict=True):
        expected = torch.stack([
            t.flatten()[i] - rates[k].flatten()[i] * g.flatten()[i] for i in range(t.numel())
        ])  # fmt: skip
        torch.testing.assert_close(adapted.parameters[k].flatten(), expected, rtol=1e-12, atol=1e-12)


def momentum(lr: float, decay: float) -> Rule:
    """As the documentation might show it: torch's SGD with momentum."""

    def update(
        gradients: Tensors, state: Tensors, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, Tensors]:
        state = {k: decay * v + gradients[k] for k, v in state.items()}
        return {k: p - lr * state[k] for k, p in parameters.items()}, state

    return FunctionalRule(lambda parameters: {k: torch.zeros_like(p) for k, p in parameters.items()}, update)


def test_a_rule_of_ones_own() -> None:
    expected, _ = by_torch(lambda p: torch.optim.SGD(p, 0.03, momentum=0.8), 5)
    adapted = adapt(bowl, start(), momentum(0.03, 0.8), 5)
    torch.testing.assert_close(adapted.parameters, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(sgd(0.05), id="sgd"),
        pytest.param(adam(0.05), id="adam"),
        pytest.param(adam(0.05, beta1=0.0, eps=0.1), id="adam-reptile"),
        pytest.param(momentum(0.03, 0.8), id="momentum"),
    ],
)
def test_the_gradient_through_the_steps_is_that_of_finite_differences(rule: Rule) -> None:
    names = list(start())

    def end(*p: Tensor) -> tuple[Tensor, ...]:
        return tuple(adapt(bowl, dict(zip(names, p, strict=True)), rule, 3).parameters.values())

    assert torch.autograd.gradcheck(end, tuple(start(requires_grad=True).values()), rtol=1e-5, atol=1e-7)


def quadratic(first_order: bool, steps: int = 4) -> tuple[Adapted, Tensors]:
    """L = ½ k x², on which n steps lead to (1 − αk)ⁿ x."""
    x, k, alpha = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (3.0, 0.7, 0.2))
    adapted = adapt(lambda p, _: k * p["x"] ** 2 / 2, {"x": x}, sgd({"x": alpha}), steps, first_order)
    return adapted, {"x": x, "k": k, "alpha": alpha}


def test_second_order_is_the_closed_form() -> None:
    """Of the parameters, of a rate that is learned, and of what the loss depends on."""
    adapted, at = quadratic(first_order=False)
    x, k, alpha = (t.item() for t in at.values())
    shrink = 1 - alpha * k
    assert adapted.parameters["x"].item() == pytest.approx(shrink**4 * x)
    assert adapted.losses.tolist() == pytest.approx([k * (shrink**n * x) ** 2 / 2 for n in range(4)])
    gradients = torch.autograd.grad(adapted.parameters["x"], list(at.values()))
    expected = [shrink**4, -4 * alpha * shrink**3 * x, -4 * k * shrink**3 * x]
    assert [g.item() for g in gradients] == pytest.approx(expected)


def test_first_order_takes_the_gradients_for_constants() -> None:
    adapted, at = quadratic(first_order=True)
    x, k, alpha = (t.item() for t in at.values())
    shrink = 1 - alpha * k
    assert adapted.parameters["x"].item() == pytest.approx(shrink**4 * x)
    to_x, to_k, to_alpha = torch.autograd.grad(adapted.parameters["x"], list(at.values()), allow_unused=True)
    assert (to_x.item(), to_k) == (1, None)
    assert to_alpha.item() == pytest.approx(-sum(k * shrink**n * x for n in range(4)))


def test_losses_of_tasks_side_by_side() -> None:
    """[T] losses, each task as if alone."""
    centres = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    x = torch.zeros(3, dtype=torch.float64)
    adapted = adapt(lambda p, _: (p["x"] - centres) ** 2, {"x": x}, sgd(0.25), 2)
    assert adapted.losses.tolist() == [[1, 4, 25], [0.25, 1, 6.25]]
    assert adapted.parameters["x"].tolist() == [0.75, -1.5, 3.75]


def test_a_regression_is_fitted() -> None:
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(1)
    p = {"weight": torch.zeros(1, 1, dtype=torch.float64), "bias": torch.zeros(1, dtype=torch.float64)}
    adapted = adapt(lambda p, _: (x @ p["weight"] + p["bias"] - 3 * x + 1).square().mean(), p, adam(0.1), 300)
    assert adapted.parameters["weight"].item() == pytest.approx(3, abs=1e-3)
    assert adapted.parameters["bias"].item() == pytest.approx(-1, abs=1e-3)
    assert adapted.losses[-1] < 1e-5 < 1 < adapted.losses[0]


@pytest.mark.parametrize("first_order", [True, False])
def test_no_steps_are_the_identity(first_order: bool) -> None:
    p = start(requires_grad=True)
    adapted = adapt(bowl, p, sgd(0.1), 0, first_order)
    torch.testing.assert_close(adapted.parameters, p, rtol=0, atol=0)
    assert adapted.losses.shape == (0,)
    (gradient,) = torch.autograd.grad(adapted.parameters["vector"].sum(), p["vector"])
    assert gradient.tolist() == [1, 1, 1, 1]


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps is -1: take 0 or more"):
        adapt(bowl, start(), sgd(0.1), -1)


@pytest.mark.parametrize("rule", [sgd(0.1), adam(0.1)], ids=["sgd", "adam"])
@pytest.mark.parametrize("first_order", [True, False])
def test_the_first_parameters_stay_as_they_are(rule: Rule, first_order: bool) -> None:
    p = start(requires_grad=True)
    versions = {k: (t, t._version, t.detach().clone()) for k, t in p.items()}
    adapted = adapt(bowl, p, rule, 3, first_order)
    for k, (t, version, value) in versions.items():
        assert p[k] is t
        assert t._version == version
        assert torch.equal(t, value)
        assert t.grad is None
        assert t.is_leaf
        assert not torch.equal(adapted.parameters[k], value)


def test_without_grad_there_is_no_graph_and_the_same_answer() -> None:
    p = start(requires_grad=True)
    expected = adapt(bowl, p, adam(0.1), 3)
    with torch.no_grad():
        adapted = adapt(bowl, p, adam(0.1), 3)
        assert not torch.is_grad_enabled()
    assert not any(t.requires_grad for t in adapted.parameters.values())
    torch.testing.assert_close(adapted.parameters, expected.parameters, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(adapted.losses, expected.losses, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", [sgd(0.1), adam(0.1)], ids=["sgd", "adam"])
def test_a_parameter_that_is_not_used_has_gradient_0(rule: Rule) -> None:
    p = {k: torch.tensor(2.0, requires_grad=True) for k in ("used", "unused")}
    adapted = adapt(lambda p, _: p["used"] ** 2, p, rule, 2)
    assert adapted.parameters["unused"].item() == 2
    assert adapted.parameters["used"].item() < 2
    gradients = torch.autograd.grad(sum(adapted.parameters.values()), list(p.values()))
    assert gradients[1].item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_adam_differentiates_where_a_gradient_is_0(dtype: torch.dtype, beta1: float) -> None:
    """√v has no derivative at 0; the step, −αg/(|g| + ε) at first, has −α/ε."""
    x = torch.tensor([0.0, 2.0], dtype=dtype, requires_grad=True)
    curvature = 3e-8  # so that a step of ε is no giant's
    adapted = adapt(lambda p, _: curvature * (p["x"] ** 2).sum() / 2, {"x": x}, adam(0.1, beta1, eps=1e-8), 1)
    (gradient,) = torch.autograd.grad(adapted.parameters["x"].sum(), x)
    assert adapted.parameters["x"][0] == 0
    assert gradient[0].item() == pytest.approx(1 - 0.1 * curvature / 1e-8, rel=1e-5)
    assert gradient.isfinite().all()
    adapted = adapt(lambda p, _: (p["x"] ** 2).sum(), {"x": x}, adam(0.1, beta1), 4)
    assert torch.autograd.grad(adapted.parameters["x"].sum(), x)[0].isfinite().all()


def test_inference_mode_is_refused_with_the_way_out() -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match=r"use torch.no_grad\(\)"):
        adapt(lambda p, _: p["x"].square(), {"x": torch.ones(())}, sgd(0.1), steps=1)


def test_parameters_that_need_no_gradient_are_adapted_all_the_same() -> None:
    adapted = adapt(bowl, start(), sgd(0.05), 2)
    expected = adapt(bowl, start(requires_grad=True), sgd(0.05), 2)
    torch.testing.assert_close(adapted.parameters, expected.parameters, rtol=1e-12, atol=1e-12)


def saved_after(steps: int, first_order: bool, grad: bool = True) -> tuple[int, int]:
    """Tensors that are kept for a backward pass after so many steps, and the most that ever were at once."""
    rng = torch.Generator().manual_seed(0)
    p = {k: torch.randn(8, 8, generator=rng, requires_grad=True) for k in ("a", "b")}

    def loss(p: Tensors, step: int) -> Tensor:
        return ((torch.ones(2, 8) @ p["a"]).tanh() @ p["b"]).sin().sum()

    saved = SavedForBackward()
    with saved, torch.set_grad_enabled(grad):
        adapted = adapt(loss, p, sgd(0.1), steps, first_order)
        return saved.tensors, saved.most if adapted.parameters else 0


def test_first_order_keeps_nothing_of_earlier_steps() -> None:
    assert saved_after(1, first_order=True)[0] == saved_after(10, first_order=True)[0] == 0
    assert saved_after(1, first_order=True)[1] == saved_after(10, first_order=True)[1] > 0
    assert saved_after(10, first_order=False)[0] > 5 * saved_after(1, first_order=False)[0] > 0


def test_without_grad_nothing_of_earlier_steps_is_kept() -> None:
    assert saved_after(10, first_order=False, grad=False)[0] == 0
    assert saved_after(10, False, grad=False)[1] == saved_after(1, False, grad=False)[1] > 0


@pytest.mark.parametrize("first_order", [True, False])
def test_activations_of_a_step_die_with_it_at_first_order(first_order: bool) -> None:
    seen: list[weakref.ref[Tensor]] = []

    def loss(p: Tensors, step: int) -> Tensor:
        assert [ref() is None for ref in seen] == [first_order] * step
        hidden = p["x"] * 2
        seen.append(weakref.ref(hidden))
        return hidden.square().sum()

    adapted = adapt(loss, {"x": torch.ones(3, requires_grad=True)}, sgd(0.1), 4, first_order)
    assert len(seen) == 4
    assert adapted.parameters["x"].requires_grad
