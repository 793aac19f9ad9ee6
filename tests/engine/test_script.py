"""A function as the list of its operations: the same bits, for other tensors of the same shapes, or of other lengths."""

import math

import pytest
import torch as th
from torch.nn import functional as F

from sb3_ppo_notes.engine.gradient import Traceable
from sb3_ppo_notes.engine.script import CannotScript, Script

WEIGHT = th.nn.Parameter(th.randn(5, 3, generator=th.Generator().manual_seed(0)))


def products(x, y):
    """Matrix products, views of a weight, a derivative, sums over some and over all."""
    hidden = th.tanh(F.linear(x, WEIGHT) + y.sum(1, keepdim=True))
    loss = (hidden.logsumexp(-1) * y[:, 0].exp()).mean() - hidden.clamp(-0.5, 0.5).sum()
    (slope,) = th.autograd.grad(loss, [WEIGHT])
    return [hidden, loss, slope.t().contiguous()]


def choices(x, y):
    """Comparisons, gathering and scattering, integers, lists of tensors."""
    index = x.argmax(1)
    picked = x.gather(1, index.unsqueeze(1)).squeeze(1)
    spread = x.new_zeros(len(x), 4).scatter_add(1, index.unsqueeze(1), picked.unsqueeze(1))
    both = th.cat([th.where(x > y[:, :1], x, -x), spread], dim=1)
    return [*th._foreach_norm(list(both.unbind())), th.stack(both.split(2, dim=1)[:2]), (x == x.amax()).float(), index]


def dtypes(x, y):
    """Everything in other types, and a function of the user's own words."""
    wide = x.to(th.float64) * math.pi
    return [wide.to(th.float32), (x > 0).long().sum(0), x.bfloat16().float(), th.ones_like(x, dtype=th.int32)]


def one_hot(x, y):
    return [F.one_hot(x.argmax(1), 3).float() @ WEIGHT.t()]


def given(seed, rows=7):
    generator = th.Generator().manual_seed(seed)
    return th.randn(rows, 3, generator=generator), th.randn(rows, 2, generator=generator)


def equal(mine, theirs):
    return len(mine) == len(theirs) and all(
        a.dtype == b.dtype and a.shape == b.shape and th.equal(a, b) for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize("function", [products, choices, dtypes, one_hot])
def test_the_same_bits(function):
    with Traceable():
        script = Script(function, given(0))
    assert equal(script.first, function(*given(0)))
    for seed in (0, 1, 2):
        found = script(*given(seed))
        assert equal(found, function(*given(seed)))
        assert not any(each.requires_grad for each in found)


def test_it_writes_where_the_function_writes():
    total = th.zeros(3)

    def count(x):
        total.add_(x.sum(0))
        th._foreach_copy_([total[:1]], [x[0, :1]])
        return [total * 2]

    script = Script(count, [th.ones(4, 3)], [total])
    assert total.tolist() == [1.0, 4.0, 4.0]
    assert script(th.full((4, 3), 2.0))[0].tolist() == [4.0, 24.0, 24.0]
    assert total.tolist() == [2.0, 12.0, 12.0]


def test_a_function_that_counts_its_calls_is_refused_before_it_counts():
    calls, made = th.zeros(1), th.nn.BatchNorm1d(3)
    for counting in (lambda x: [x + calls.add_(1)], lambda x: [x + calls.detach().view(1).add_(1)], made):
        with pytest.raises(CannotScript, match="changes a tensor that lasts"):
            Script(counting, [th.ones(4, 3)])
    assert calls.item() == made.num_batches_tracked.item() == 0
    assert Script(lambda x: [x.clone().add_(1), th.zeros(3).copy_(x[0])], [th.ones(4, 3)])(th.ones(4, 3))[0].sum() == 24


def test_weights_are_read_where_they_lie():
    weight = th.nn.Parameter(th.ones(2))
    script = Script(lambda x: [x * weight.view(1, 2)], [th.ones(1, 2)])
    with th.no_grad():
        weight.fill_(3.0)
    assert script(th.ones(1, 2))[0].tolist() == [[3.0, 3.0]]
    assert script.is_current
    weight.data = th.full((2,), 5.0)
    assert not script.is_current


def test_a_constant_that_is_no_number_of_pythons_is_kept():
    script = Script(lambda x: [x + th.tensor([1.0, 2.0])], [th.zeros(2)])
    assert script(th.ones(2))[0].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: [x * x.sum().item()], "looks at the numbers"),
        (lambda x: [x if x.sum() > 0 else -x], "looks at the numbers"),
        (lambda x: [x[x > 0]], "looks at the numbers"),
        (lambda x: [x + th.rand(3)], "draws random numbers"),
        (lambda x: [F.dropout(x)], "draws random numbers"),
        (lambda x: [x.nothing], "has no attribute 'nothing'"),
    ],
)
def test_what_is_no_fixed_list_is_refused(function, why):
    with pytest.raises(CannotScript, match=why):
        Script(function, [th.ones(3)])


def test_others_keep_their_interpreter():
    """TorchScript is told not to optimise for the time of a call, and no longer."""
    script = Script(lambda x: [x.view(4)], [th.ones(4)])
    assert th._C._get_graph_executor_optimize()
    script(th.ones(4))
    assert th._C._get_graph_executor_optimize()
    with pytest.raises(RuntimeError):
        script(th.ones(5))
    assert th._C._get_graph_executor_optimize()
