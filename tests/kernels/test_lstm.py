"""The LSTM in C is nn.LSTM, step for step and slope for slope, on every instruction set and however rows lie."""

import logging
import os
import shutil
import subprocess
import sysconfig
from importlib.metadata import PackagePath
from pathlib import PurePath
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch._subclasses.fake_tensor import FakeTensorMode

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.formulas.lstm import lstm_gates, lstm_step, lstm_step_gradient
from sb3_ppo_notes.kernels import compiled, lstm, lstm_sequences
from sb3_ppo_notes.kernels.compiled import path_of
from sb3_ppo_notes.kernels.lstm import Library, Memory
from sb3_ppo_notes.rules import EarlyStop, UpdateRule

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
built = pytest.mark.skipif(lstm.LIBRARY is None, reason="the package was installed without a C compiler")
LEVELS = range(0 if lstm.LIBRARY is None else lstm.LIBRARY.level + 1)
#: Lengths of the sequences in each lane.
LAYOUTS = {
    "one row": [[1]],
    "one lane": [[7]],
    "equal lanes": [[4], [4], [4]],
    "ragged, end to end": [[5, 2], [8], [1, 1, 2], [3]],
    "many lanes": [[1 + lane % 3, 2] for lane in range(13)],
    "two dozen steps of six": [[24]] * 6,
}


@pytest.fixture(params=LEVELS, ids=lambda level: ("plain", "avx2", "avx512")[level])
def every_level(request, monkeypatch):
    monkeypatch.setattr(lstm, "LIBRARY", Library(path_of("kernels._lstm"), request.param))


@pytest.fixture(autouse=True)
def _one_thread():
    before = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(before)


def laid(lanes):
    """(place of each row, (steps, lanes), rows of each sequence, lane of each sequence that begins it)."""
    n_lanes = len(lanes)
    spans, longest = [], 0
    for lane, lengths in enumerate(lanes):
        step = 0
        for length in lengths:
            spans.append((lane, step, length))
            step += length + 1
        longest = max(longest, step - 1)
    place, rows, firsts = [], [], []
    for lane, begin, length in spans:
        rows.append(range(len(place), len(place) + length))
        firsts.append(lane if begin == 0 else None)
        place += [(begin + step) * n_lanes + lane for step in range(length)]
    # The order of the rows means nothing.
    order = np.random.default_rng(0).permutation(len(place))
    back = np.argsort(order)
    return th.tensor(np.array(place)[order]), (longest, n_lanes), [back[list(span)] for span in rows], firsts


def memory_of(n_rows, n_lanes, n_inputs=4, units=64, bias=True, scale=1.0, seed=0):
    th.manual_seed(seed)
    module = th.nn.LSTM(n_inputs, units, bias=bias)
    with th.no_grad():
        for weight in module.parameters():
            weight.mul_(scale)
    states = tuple(th.randn(1, n_lanes, units) for _ in range(2))
    return Memory(module, th.randn(n_rows, n_inputs), states)


def alone(memory, rows, firsts):
    """Each sequence by itself, through nn.LSTM in double precision."""
    module, features, states = memory
    exact = th.nn.LSTM(module.input_size, module.hidden_size, bias=module.bias, dtype=th.float64)
    exact.load_state_dict({name: weight.double() for name, weight in module.state_dict().items()})
    features = features.detach().double().requires_grad_()
    hidden = th.empty(len(features), module.hidden_size, dtype=th.float64)
    for span, lane in zip(rows, firsts, strict=True):
        begin = tuple(
            th.zeros(1, 1, module.hidden_size, dtype=th.float64) if lane is None else state[:, lane : lane + 1].double()
            for state in states
        )
        hidden = hidden.index_copy(0, th.tensor(span), exact(features[span].unsqueeze(1), begin)[0].squeeze(1))
    return exact, features, hidden


def assert_close(found, expected, tolerance=2e-6):
    assert (found.double() - expected).abs().max().item() <= tolerance * max(1.0, expected.abs().max().item())


@pytest.mark.skipif(COMPILER is None or os.environ.get("TEST_LSTM_LEVEL") == "none", reason="no C compiler")
def test_where_there_is_a_compiler_the_code_is_built():
    assert lstm.LIBRARY is not None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("n_inputs", "units", "bias"), [(4, 64, True), (17, 128, False), (96, 64, True), (1, 256, True)]
)
def test_it_is_pytorchs_forward_and_back(every_level, layout, n_inputs, units, bias):
    place, shape, rows, firsts = laid(LAYOUTS[layout])
    memory = memory_of(len(place), shape[1], n_inputs, units, bias)
    features = memory.features.requires_grad_()
    exact, exact_features, expected = alone(memory, rows, firsts)
    assert lstm.can_run(memory, shape[1])
    found = lstm_sequences.sequences(memory, place, shape)
    assert_close(found, expected)
    slope = th.randn_like(found)
    before = slope.clone()
    ours = th.autograd.grad(found, [features, *memory.module.parameters()], slope)
    theirs = th.autograd.grad(expected, [exact_features, *exact.parameters()], slope.double())
    for mine, right in zip(ours, theirs, strict=True):
        assert mine.shape == right.shape
        assert_close(mine, right)
    assert th.equal(slope, before), "the gradient that was handed in is somebody else's"


@built
def test_it_is_the_formulas_step_by_step():
    place, shape, _, _ = laid([[6]])
    memory = memory_of(6, 1)
    w_ih, w_hh, b_ih, b_hh = memory.module.parameters()
    found = lstm_sequences.sequences(memory, place, shape)
    ours = th.autograd.grad(found.sum(), [w_ih, w_hh, b_ih, b_hh])
    order = th.argsort(place)
    with th.no_grad():
        hidden, cell = (state[0, 0] for state in memory.states)
        steps = []
        for row in order:
            gates = lstm_gates(w_ih @ memory.features[row] + b_ih + w_hh @ hidden + b_hh)
            steps.append([gates, hidden, cell])
            hidden, cell = lstm_step(gates, cell)
            steps[-1].append(cell)
            assert_close(found[row], hidden.double())
        slopes = [th.zeros_like(weight) for weight in (w_ih, w_hh, b_ih)]
        d_hidden, d_cell = th.zeros(64), th.zeros(64)
        for row, (gates, before, cell_before, cell) in zip(reversed(order), reversed(steps), strict=True):
            d_gates, d_cell = lstm_step_gradient(gates, cell_before, cell, d_hidden + 1.0, d_cell)
            slopes[0] += th.outer(d_gates, memory.features[row])
            slopes[1] += th.outer(d_gates, before)
            slopes[2] += d_gates
            d_hidden = d_gates @ w_hh
    for mine, right in zip(ours, (*slopes, slopes[2]), strict=True):
        assert_close(mine, right.double())


def test_one_step_is_the_cell(every_level):
    for n_lanes, n_inputs, units, bias in ((1, 4, 64, True), (3, 3, 128, False), (8, 70, 64, True), (13, 1, 256, True)):
        memory = memory_of(n_lanes, n_lanes, n_inputs, units, bias)
        cell = th.nn.LSTMCell(n_inputs, units, bias=bias, dtype=th.float64)
        weights = {
            f"{name.removesuffix('_l0')}": weight.double() for name, weight in memory.module.state_dict().items()
        }
        cell.load_state_dict(weights)
        with th.no_grad():
            shown, states = lstm.step(memory)
            expected = cell(memory.features.double(), tuple(state[0].double() for state in memory.states))
        assert_close(shown, expected[0])
        assert th.equal(states[0][0], shown)
        assert_close(states[1][0], expected[1])
        assert [state.shape for state in states] == [(1, n_lanes, units)] * 2


@built
@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=9), st.integers(0, 9))
def test_what_lies_beside_a_sequence_changes_none_of_its_bits(lanes, seed):
    place, shape, rows, firsts = laid(lanes)
    memory = memory_of(len(place), shape[1], seed=seed)
    together = lstm_sequences.sequences(memory, place, shape).detach()
    for span, lane in zip(rows, firsts, strict=True):
        states = tuple(th.zeros(1, 1, 64) if lane is None else state[:, lane : lane + 1] for state in memory.states)
        lone = Memory(memory.module, memory.features[span], states)
        assert th.equal(lstm_sequences.sequences(lone, th.arange(len(span)), (len(span), 1)), together[span])


def test_gates_are_right_from_the_smallest_to_the_largest_sums(every_level):
    """No recurrence, and one input: every gate is a function of it alone."""
    memory = memory_of(4001, 4001, n_inputs=1)
    with th.no_grad():
        memory.module.weight_hh_l0.zero_()
        memory.module.weight_ih_l0.fill_(1.0)
        for name in ("bias_ih_l0", "bias_hh_l0"):
            getattr(memory.module, name).zero_()
    sums = th.cat([th.linspace(-30, 30, 3001), th.logspace(-30, 4, 500), -th.logspace(-30, 4, 500)])
    states = tuple(th.zeros_like(state) for state in memory.states)
    found = lstm_sequences.sequences(Memory(memory.module, sums.unsqueeze(1), states), th.arange(4001), (1, 4001))
    hidden, _ = lstm_step(lstm_gates(sums.double().repeat(4, 1).T), th.zeros(4001, 1, dtype=th.float64))
    error = (found[:, 0].double() - hidden[:, 0]).abs() / hidden[:, 0].abs().clamp(min=1e-35)
    assert error.max().item() < 2e-6


def test_what_is_no_number_stays_none_and_harms_no_other_sequence(every_level):
    place, shape, rows, _ = laid(LAYOUTS["ragged, end to end"])
    memory = memory_of(len(place), shape[1])
    clean = lstm_sequences.sequences(memory, place, shape).detach()
    spoilt = memory.features.clone()
    spoilt[rows[0][2]] = th.nan
    found = lstm_sequences.sequences(memory._replace(features=spoilt), place, shape).detach()
    assert found[rows[0][2:]].isnan().all()
    harmed = set(rows[0][2:].tolist())
    rest = [row for row in range(len(place)) if row not in harmed]
    assert th.equal(found[rest], clean[rest])


@built
def test_infinite_and_huge_inputs_saturate_as_pytorchs_do():
    memory = memory_of(3, 3)
    features = th.tensor([[np.inf] * 4, [-3e38] * 4, [1e30, 0, 0, 0]])
    with th.no_grad():
        memory.module.weight_ih_l0.abs_()
        expected = memory.module(features.unsqueeze(0), memory.states)[0][0]
        found = lstm_sequences.sequences(memory._replace(features=features), th.arange(3), (1, 3))
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-6)


@built
def test_weights_and_states_may_lie_anyhow_in_memory():
    place, shape, *_ = laid(LAYOUTS["equal lanes"])
    memory = memory_of(len(place), shape[1])
    expected = lstm_sequences.sequences(memory, place, shape).detach()
    turned = memory_of(len(place), shape[1])
    for weight in turned.module.parameters():
        if weight.dim() == 2:
            weight.data = weight.data.t().contiguous().t()
    states = tuple(state.transpose(0, 1).contiguous().transpose(0, 1) for state in memory.states)
    features = memory.features.t().contiguous().t()
    spread = th.stack([place, place], dim=1)[:, 0]
    assert not spread.is_contiguous()
    found = lstm_sequences.sequences(Memory(turned.module, features, states), spread, shape)
    assert th.equal(found, expected)
    slopes = [
        th.autograd.grad(lstm_sequences.sequences(one, place, shape).sum(), list(one.module.parameters()))
        for one in (memory, Memory(turned.module, features, states))
    ]
    assert all(th.equal(mine, right) for mine, right in zip(*slopes, strict=True))


@built
def test_weights_changed_before_the_way_back_are_noticed():
    memory = memory_of(3, 3)
    found = lstm_sequences.sequences(memory, th.arange(3), (1, 3))
    with th.no_grad():
        memory.module.weight_hh_l0.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


@built
def test_no_second_derivative_is_made_up():
    memory = memory_of(3, 3)
    memory.features.requires_grad_()
    found = lstm_sequences.sequences(memory, th.arange(3), (1, 3))
    (slope,) = th.autograd.grad((found**2).sum(), memory.features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def states_of(*shape):
    return memory_of(3, 3)._replace(states=tuple(th.randn(*shape) for _ in range(2)))


def with_weight(name, tensor):
    memory = memory_of(3, 3)
    getattr(memory.module, name).data = tensor
    return memory


REFUSED = {
    "units": lambda: memory_of(3, 3, units=96),
    "double precision": lambda: Memory(th.nn.LSTM(4, 64).double(), th.randn(3, 4).double(), memory_of(3, 3).states),
    "double states": lambda: memory_of(3, 3)._replace(states=tuple(th.randn(1, 3, 64).double() for _ in range(2))),
    "one weight in double precision": lambda: with_weight("weight_ih_l0", th.randn(256, 4).double()),
    "gradient at the states": lambda: memory_of(3, 3)._replace(
        states=tuple(th.randn(1, 3, 64, requires_grad=True) for _ in range(2))
    ),
    "another device": lambda: memory_of(3, 3)._replace(features=th.empty(3, 4, device="meta")),
    "too many features": lambda: memory_of(3, 3)._replace(features=th.randn(3, 40)),
    "features of no row": lambda: memory_of(3, 3)._replace(features=th.randn(3, 2, 4)),
    "states of other units": lambda: states_of(1, 3, 32),
    "states of other lanes": lambda: states_of(1, 8, 64),
    "states of two layers": lambda: states_of(2, 3, 64),
    "one state": lambda: memory_of(3, 3)._replace(states=(th.randn(1, 3, 64),)),
    "projected states": lambda: Memory(th.nn.LSTM(4, 64, proj_size=8), th.randn(3, 4), memory_of(3, 3).states),
    "a bias cut short": lambda: with_weight("bias_ih_l0", th.randn(8)),
}


@built
@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_do_is_left_to_pytorch(what):
    assert lstm.can_run(memory_of(3, 3), 3)
    assert not lstm.can_run(REFUSED[what](), 3)


@built
def test_autocast_and_many_threads_are_left_to_pytorch():
    with th.autocast("cpu", dtype=th.bfloat16):
        assert not lstm.can_run(memory_of(3, 3), 3)
    th.set_num_threads(2)
    assert lstm.can_run(memory_of(3, 3), 3)
    th.set_num_threads(3)
    assert not lstm.can_run(memory_of(3, 3), 3)


@built
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_who_traces_or_transforms_meets_pytorchs_own():
    memory, asked = memory_of(3, 3), []

    def ask(features):
        asked.append(lstm.can_run(memory._replace(features=features), 3))
        return features.sum()

    th.func.grad(ask)(memory.features)
    th.jit.trace(ask, memory.features, check_trace=False)
    with FakeTensorMode() as mode:
        ask(mode.from_tensor(memory.features))
    assert asked == [False] * 3


@built
@pytest.mark.parametrize("place", [-1, 3, 2**40])
def test_a_row_outside_the_lanes_is_refused(place):
    memory = memory_of(3, 3)
    with pytest.raises(
        InvalidValueError, match=r"^place must lie in \[0, 3\), the steps times the lanes, for every row$"
    ):
        lstm_sequences.sequences(memory, th.tensor([0, 1, place]), (1, 3))


@built
@pytest.mark.parametrize(
    ("place", "got"),
    [
        (th.arange(2), "torch.int64 of shape (2,)"),
        (th.arange(3).int(), "torch.int32 of shape (3,)"),
        (th.zeros(3, 1).long(), "torch.int64 of shape (3, 1)"),
    ],
)
def test_places_of_another_type_or_number_are_refused(place, got):
    with pytest.raises(InvalidValueError) as error:
        lstm_sequences.sequences(memory_of(3, 3), place, (1, 3))
    assert str(error.value) == f"place must hold one int64 for each of 3 rows, got {got}"


class WrongWidth(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 8)
        self.net = th.nn.Linear(4, 20)

    def forward(self, observations):
        return self.net(observations)


@built
def test_mistakes_that_pytorch_names_are_named_still():
    policy_kwargs = dict(lstm_hidden_size=64, features_extractor_class=WrongWidth)
    wrong = NotesPPO("MlpLstmPolicy", "CartPole-v1", n_steps=64, device="cpu", policy_kwargs=policy_kwargs)
    with pytest.raises(RuntimeError, match="input has inconsistent input_size: got 20 expected 8"):
        wrong.learn(64)
    right = NotesPPO("MlpLstmPolicy", "CartPole-v1", device="cpu", policy_kwargs=dict(lstm_hidden_size=64))
    for shape in ((1, 1, 32), (1, 8, 64)):
        with pytest.raises(RuntimeError):
            right.predict(np.zeros(4, np.float32), state=tuple(np.zeros(shape, np.float32) for _ in range(4)))


@built
def test_a_hook_on_all_modules_hears_the_memory():
    model = NotesPPO("MlpLstmPolicy", "CartPole-v1", n_steps=16, batch_size=16, policy_kwargs=dict(lstm_hidden_size=64))
    heard = []
    handle = th.nn.modules.module.register_module_forward_hook(lambda module, *_: heard.append(type(module)))
    try:
        model.learn(16)
    finally:
        handle.remove()
    assert heard.count(th.nn.LSTM) > 32


@built
def test_each_bias_has_a_gradient_of_its_own():
    """One tensor for both would be shortened twice by whoever clips in place."""
    memory = memory_of(3, 3)
    slopes = th.autograd.grad(
        lstm_sequences.sequences(memory, th.arange(3), (1, 3)).sum(), list(memory.module.parameters())
    )
    assert th.equal(slopes[2], slopes[3])
    assert slopes[2].data_ptr() != slopes[3].data_ptr()


class OwnSGD(th.optim.SGD):
    """A class that nobody knows the arithmetic of."""


@built
@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(optimizer_class=OwnSGD),
        dict(max_grad_norm=0.01, rule=UpdateRule(kl_controls=(EarlyStop(1e-6, scope="policy"),))),
    ],
    ids=["plain", "own_optimizer", "critic_alone"],
)
def test_training_with_and_without_the_code_is_the_same_to_rounding(changes, monkeypatch):
    def trained():
        policy_kwargs = dict(lstm_hidden_size=64, net_arch=[16], optimizer_kwargs=dict(eps=1e-3))
        if "optimizer_class" in changes:
            policy_kwargs |= changes | dict(optimizer_kwargs={})
        arguments = dict(n_steps=64, seed=0, device="cpu", policy_kwargs=policy_kwargs, max_grad_norm=0.05)
        others = {name: value for name, value in changes.items() if name != "optimizer_class"}
        model = NotesPPO("MlpLstmPolicy", "CartPole-v1", **arguments | others)
        th.manual_seed(0)
        return dict(model.learn(64).policy.named_parameters())

    ours, calls = trained(), []
    run = Library.run
    monkeypatch.setattr(Library, "run", lambda self, name, batch: calls.append(name) or run(self, name, batch))
    again = trained()
    assert all(th.equal(ours[name], weight) for name, weight in again.items())
    assert {"forward", "backward", "step"} == set(calls)
    monkeypatch.setattr(lstm, "LIBRARY", None)
    theirs = trained()
    assert max((ours[name] - weight).abs().max().item() for name, weight in theirs.items()) < 1e-5


@built
def test_no_memory_is_an_error_and_no_crash(monkeypatch):
    monkeypatch.setitem(lstm.LIBRARY.functions, "forward", lambda *_: 1)
    with pytest.raises(MemoryError, match="^no memory for the LSTM's forward pass over 3 rows$"):
        lstm_sequences.sequences(memory_of(3, 3), th.arange(3), (1, 3))


def test_without_the_code_calling_it_says_so(monkeypatch):
    monkeypatch.setattr(lstm, "LIBRARY", None)
    assert not lstm.can_run(memory_of(3, 3), 3)
    with pytest.raises(RuntimeError, match="ask can_run first"):
        lstm_sequences.sequences(memory_of(3, 3), th.arange(3), (1, 3))


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize("source", ["int lstm_revision(void) { return -1; }", "int other(void) { return 0; }"])
def test_what_was_built_from_another_source_is_not_called(source, tmp_path, monkeypatch, caplog):
    (tmp_path / "old.c").write_text(source)
    library = tmp_path / f"old{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, tmp_path / "old.c"], check=True)
    with pytest.raises(OSError, match="was built from another version's source"):
        Library(str(library))
    monkeypatch.setattr(compiled, "find_spec", lambda _: type("Spec", (), {"origin": str(library)}))
    assert lstm._load() is None
    assert "recurrent policies train at PyTorch's speed" in caplog.text


def installed(monkeypatch, *files_of_each):
    """Nothing beside the sources, and these distributions installed."""
    made = [SimpleNamespace(files=files) for files in files_of_each]
    monkeypatch.setattr(compiled, "find_spec", lambda _: None)
    monkeypatch.setattr(compiled.metadata, "distributions", lambda name: made)


def test_that_nothing_was_built_is_said_once_when_it_matters(monkeypatch, caplog):
    monkeypatch.setattr(lstm, "LIBRARY", None)
    lstm._say_that_it_is_missing.cache_clear()
    with caplog.at_level(logging.INFO, "sb3_ppo_notes"):
        NotesPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, device="cpu").learn(16)
        assert not caplog.records
        for _ in range(2):
            NotesPPO("MlpLstmPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, device="cpu").learn(16)
    assert [(record.levelname, record.message.partition(":")[0]) for record in caplog.records] == [
        ("INFO", "recurrent policies train at PyTorch's speed")
    ]


SOURCES = [PackagePath("sb3_ppo_notes/kernels/_lstm.c"), PackagePath("sb3_ppo_notes/kernels/lstm.py")]


@pytest.mark.parametrize("files_of_each", [[], [None], [[]], [SOURCES]])
def test_what_was_never_built_is_nothing_to_complain_about(files_of_each, monkeypatch, caplog):
    installed(monkeypatch, *files_of_each)
    assert lstm._load() is None
    assert not caplog.text


@built
def test_from_a_checkout_the_installed_code_is_found(monkeypatch):
    """``python -m sb3_ppo_notes`` in a checkout runs its sources, though the package is installed elsewhere."""
    built_here = PurePath(path_of("kernels._lstm"))

    class Installed(PackagePath):
        def locate(self):
            return built_here

    installed(monkeypatch, SOURCES, [*SOURCES, Installed("sb3_ppo_notes/kernels/_lstm.cpython-311.so")])
    assert lstm._load().functions.keys() == lstm.LIBRARY.functions.keys()


def test_the_revision_of_our_code_is_part_of_what_a_checkpoint_compares():
    """Another revision may round otherwise: a run that is resumed under it is not exact, and says so."""
    name = lstm.in_use()
    assert name == "torch" or name.endswith(f"revision {lstm.REVISION}")
