"""Steps of optimisers: against torch's own, bit for bit, and against the papers' sums in float64."""

import math

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_ppo_notes.engine.descent import clip_coefficient, clip_number
from sb3_ppo_notes.engine.optimizers import ELEMENTWISE, FlatOptimizer, elementwise_of
from sb3_ppo_notes.formulas import optimizers as formulas

#: Lengths on both sides of every vector register's width: a tail is computed by other instructions than the body.
SHAPES = [(64, 4), (64,), (3, 7), (1,), (17,), (2, 33), (5,), (257, 301)]  # the last in three blocks
OPTIMIZERS = {
    "adam": (th.optim.Adam, dict(lr=3e-4, eps=1e-5)),
    "adam_other_betas": (th.optim.Adam, dict(lr=1e-2, betas=(0.8, 0.95))),
    "rmsprop": (th.optim.RMSprop, dict(lr=7e-4, alpha=0.99, eps=1e-5)),
    "rmsprop_tf": (RMSpropTFLike, dict(lr=7e-4, alpha=0.99, eps=1e-5)),
}


def parameters(seed: int = 0) -> list[th.nn.Parameter]:
    generator = th.Generator().manual_seed(seed)
    return [th.nn.Parameter(th.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(weights, seed: int) -> list[th.Tensor]:
    generator = th.Generator().manual_seed(seed)
    return [th.randn(weight.shape, generator=generator) * 10.0 ** (seed % 5 - 3) for weight in weights]


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_flat_step_is_torchs_own_bit_for_bit(name):
    optimizer_class, options = OPTIMIZERS[name]
    theirs, ours = parameters(), parameters()
    their_optimizer, our_optimizer = optimizer_class(theirs, **options), optimizer_class(ours, **options)
    for start in (0, 20):
        # Given back and taken up again in between, as between two updates.
        flat = FlatOptimizer(our_optimizer, ELEMENTWISE[optimizer_class], ours)
        for seed in range(start, start + 20):
            gradients = give_gradients(theirs, seed)
            for weight, gradient in zip(theirs, gradients, strict=True):
                weight.grad = gradient
            for part, gradient in zip(flat.gradient.parts, gradients, strict=True):
                part.copy_(gradient)
            their_optimizer.param_groups[0]["lr"] = our_optimizer.param_groups[0]["lr"] = options["lr"] / (1 + seed)
            their_optimizer.step()
            with th.no_grad():
                flat.step()
        flat.give_back()
        assert all(th.equal(a, b) for a, b in zip(theirs, ours, strict=True))
        for a, b in zip(theirs, ours, strict=True):
            their_state, our_state = their_optimizer.state[a], our_optimizer.state[b]
            assert their_state.keys() == our_state.keys()
            assert all(th.equal(th.as_tensor(their_state[key]), th.as_tensor(our_state[key])) for key in their_state)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation has made."""

    n_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, th.Tensor) and not any(result is each for each in args):
            self.n_elements = max(self.n_elements, result.numel())
        return result


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_what_a_step_leaves_behind_is_small_enough_for_the_allocator_to_keep(name):
    optimizer_class, options = OPTIMIZERS[name]
    weights = parameters()
    flat = FlatOptimizer(optimizer_class(weights, **options), ELEMENTWISE[optimizer_class], weights)
    with th.no_grad(), Largest() as largest:
        flat.step()
    assert 0 < 4 * largest.n_elements <= 128 * 1024


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_torch_continues_where_the_flat_optimiser_stopped(name):
    optimizer_class, options = OPTIMIZERS[name]
    results = []
    for is_flat in (False, True):
        weights = parameters()
        optimizer = optimizer_class(weights, **options)
        for seed in range(6):
            gradients = give_gradients(weights, seed)
            if is_flat and seed < 3:
                flat = FlatOptimizer(optimizer, ELEMENTWISE[optimizer_class], weights)
                for part, gradient in zip(flat.gradient.parts, gradients, strict=True):
                    part.copy_(gradient)
                with th.no_grad():
                    flat.step()
                flat.give_back()
            else:
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient
                optimizer.step()
        results.append(weights)
    assert all(th.equal(a, b) for a, b in zip(*results, strict=True))


def test_adam_after_three_steps_is_the_papers_closed_form():
    """m and v as weighted sums over all gradients, not as a recursion; float64."""
    gradients, betas, eps, learning_rate = np.array([0.5, -2.0, 1.0]), (0.9, 0.99), 1e-3, 0.1
    weight, moments = th.zeros(1, dtype=th.float64), (th.zeros(1, dtype=th.float64), th.zeros(1, dtype=th.float64))
    expected = 0.0
    for t, gradient in enumerate(gradients, start=1):
        ages = np.arange(t)[::-1]
        mean = (1 - betas[0]) * (betas[0] ** ages @ gradients[:t]) / (1 - betas[0] ** t)
        square = (1 - betas[1]) * (betas[1] ** ages @ gradients[:t] ** 2) / (1 - betas[1] ** t)
        expected -= learning_rate * mean / (math.sqrt(square) + eps)
        moments = formulas.adam_moments(th.tensor([gradient], dtype=th.float64), *moments, betas)
        corrections = formulas.adam_corrections(t, learning_rate, betas)
        weight = formulas.adam_step(weight, *moments, corrections, eps)
    assert weight.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gradient", [1e-6, 1.0, 1e6])
def test_adams_first_step_is_the_learning_rate_whatever_the_gradient(gradient):
    moments = formulas.adam_moments(th.tensor([gradient]), th.zeros(1), th.zeros(1), (0.9, 0.999))
    step = formulas.adam_step(th.zeros(1), *moments, formulas.adam_corrections(1, 0.01, (0.9, 0.999)), eps=0.0)
    assert step.item() == pytest.approx(-0.01, rel=1e-5)


def test_tensorflows_epsilon_bounds_the_step_and_torchs_hardly_does():
    gradient, eps = th.tensor([1e-3]), 1e-5
    square = th.zeros(1)
    torch_step = formulas.rmsprop_step(th.zeros(1), gradient, square, -1.0, eps)
    tf_step = formulas.rmsprop_tf_step(th.zeros(1), gradient, square, -1.0, eps)
    assert torch_step.item() == pytest.approx(-1e-3 / 1e-5)
    assert tf_step.item() == pytest.approx(-1e-3 / math.sqrt(1e-5))


def adam(**options) -> th.optim.Adam:
    return th.optim.Adam(parameters(), **options)


def with_hook() -> th.optim.Adam:
    optimizer = adam()
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def with_scheduler() -> th.optim.Adam:
    optimizer = adam()
    th.optim.lr_scheduler.StepLR(optimizer, 1)
    return optimizer


def with_uneven_steps() -> th.optim.Adam:
    optimizer = adam()
    optimizer.param_groups[0]["params"][0].grad = th.ones(SHAPES[0])
    optimizer.step()
    return optimizer


class MyAdam(th.optim.Adam):
    """Might do anything."""


@pytest.mark.parametrize(
    "optimizer",
    [
        adam(weight_decay=0.1),
        adam(amsgrad=True),
        adam(maximize=True),
        adam(fused=True),
        th.optim.RMSprop(parameters(), momentum=0.9),
        th.optim.RMSprop(parameters(), centered=True),
        th.optim.AdamW(parameters()),
        MyAdam(parameters()),
        with_hook(),
        with_scheduler(),
        with_uneven_steps(),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_whatever_the_formulas_do_not_cover_is_left_to_torch(optimizer):
    assert elementwise_of(optimizer, optimizer.param_groups[0]["params"]) is None


def test_several_groups_are_left_to_torch():
    first, *rest = parameters()
    optimizer = th.optim.Adam([{"params": [first], "lr": 1.0}, {"params": rest}])
    assert elementwise_of(optimizer, [first, *rest]) is None


def test_the_quick_clip_coefficient_is_torchs_to_the_bit():
    generator = np.random.default_rng(0)
    for norm in (10.0 ** generator.uniform(-6, 6, 2000)).astype(np.float32):
        for limit in (0.5, 0.3, 1.0, 2.0):
            assert clip_number(float(norm), limit) == clip_coefficient(th.tensor(norm), limit).item()
