"""One step of an LSTM is PyTorch's, its gradient autograd's; what shut and open gates do."""

import pytest
import torch as th

from sb3_ppo_notes.formulas.lstm import Gates, lstm_gates, lstm_step, lstm_step_gradient

N, H = 3, 5


def drawn(*shape, seed=0):
    return th.randn(*shape, generator=th.Generator().manual_seed(seed), dtype=th.float64)


def test_a_step_is_pytorchs():
    cell = th.nn.LSTMCell(4, H, dtype=th.float64)
    features, before, hidden = drawn(N, 4), drawn(N, H, seed=1), drawn(N, H, seed=2)
    sums = features @ cell.weight_ih.T + cell.bias_ih + hidden @ cell.weight_hh.T + cell.bias_hh
    found = lstm_step(lstm_gates(sums), before)
    for ours, theirs in zip(found, cell(features, (hidden, before)), strict=True):
        assert ours.detach().numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-14)


def test_the_gradient_of_a_step_is_autograds():
    sums, before = drawn(N, 4 * H).requires_grad_(), drawn(N, H, seed=1).requires_grad_()
    d_hidden, d_cell = drawn(N, H, seed=2), drawn(N, H, seed=3)
    gates = lstm_gates(sums)
    hidden, cell = lstm_step(gates, before)
    expected = th.autograd.grad([hidden, cell], [sums, before], [d_hidden, d_cell])
    with th.no_grad():
        found = lstm_step_gradient(gates, before, cell, d_hidden, d_cell)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-14)


@pytest.mark.parametrize(("forget", "kept"), [(1.0, 1.0), (0.0, 0.0)])
def test_an_open_gate_carries_memory_and_gradient_on_and_a_shut_one_neither(forget, kept):
    gates = Gates(th.zeros(H), th.full((H,), forget), drawn(H).tanh().float(), th.ones(H))
    before = th.full((H,), 3.0)
    cell = before
    for _ in range(500):
        _, cell = lstm_step(gates, cell)
    assert th.equal(cell, kept * before)
    _, d_before = lstm_step_gradient(gates, before, cell, th.zeros(H), th.ones(H))
    assert th.equal(d_before, th.full((H,), kept))


def test_what_is_shown_is_bounded_however_much_is_remembered():
    hidden, cell = lstm_step(Gates(*(th.ones(H) for _ in range(4))), th.full((H,), 1e6))
    assert (cell == 1e6 + 1).all()
    assert (hidden == 1.0).all()
