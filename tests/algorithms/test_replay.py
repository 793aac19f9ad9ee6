"""A recorded step is the step: tried with the rules of a CUDA graph (tests/algorithms/cpu_tape.py), which needs no GPU."""

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import NotesA2C
from sb3_ppo_notes.engine import cuda_graph as replay
from sb3_ppo_notes.engine import inductor
from sb3_ppo_notes.engine.tracing import Traceable
from tests.algorithms.cpu_tape import CpuTape
from tests.algorithms.test_compile import CASES, ChangeEverything, difference, learn, models

pytestmark = pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning")


class Tape(CpuTape):
    """Counts for one test."""


@pytest.fixture
def traced(monkeypatch):
    """What is compiled is only traced: a tape sees operations, and TorchInductor's kernels are none."""

    def trace(function, arguments, varying=()):
        with th.no_grad(), Traceable(), th.random.fork_rng():
            return inductor._traced(function, arguments)[0]

    monkeypatch.setattr("sb3_ppo_notes.engine.compiled.compiled", trace)


@pytest.fixture
def tape(monkeypatch, traced):
    Tape.replays = 0
    monkeypatch.setitem(replay.TAPES, "cpu", Tape)
    return Tape


def both(monkeypatch, env_name, total_timesteps, algorithm=None, callback=lambda: None, **changes):
    """The same model trained twice: steps called as they are, and recorded."""
    arguments = () if algorithm is None else (algorithm,)
    trained = []
    for tapes in ({}, {"cpu": Tape}):
        monkeypatch.setattr(replay, "TAPES", tapes)
        _, model = models(env_name, *arguments, **changes)
        trained.append(learn(model, total_timesteps, callback=callback()))
        assert model.compiler.reason is None
    return trained


# Those whose compiled step differs in what it is given, or in what it writes to.
NAMES = [
    "discrete",
    "box",
    "dict",
    "image",
    "masked",
    "gsde",
    "shared_trunk",
    "kl_penalty",
    "stop_of_the_policy",
    "adaptive_learning_rate",
    "separate_optimizers",
    "torchs_own_optimizer",
    "tensorflows_rmsprop",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_is_the_run(name, monkeypatch, tape, caplog):
    """Two updates, ragged minibatches between them."""
    env_name, changes = CASES[name]
    n_steps = changes.get("n_steps", 16)
    plain, recorded = both(monkeypatch, env_name, 2 * 4 * n_steps, **changes)
    assert difference(plain, recorded) == 0.0
    assert plain.last_report == recorded.last_report
    assert tape.replays > 0
    assert "launched" not in caplog.text


def test_a2c_too(monkeypatch, tape):
    plain, recorded = both(monkeypatch, "box", 5 * 64, NotesA2C)
    assert difference(plain, recorded) == 0.0
    assert tape.replays == 5


def test_what_changes_between_updates_is_seen(monkeypatch, tape):
    plain, recorded = both(monkeypatch, "discrete", 4 * 64, callback=ChangeEverything, target_kl=10.0, ent_coef=0.01)
    assert difference(plain, recorded) == 0.0
    assert tape.replays == 4 * 3 * 5  # 64 = 5·12 + 4: the last is eager


class NewWeights(BaseCallback):
    """Other weights, in place and not in place, and another optimiser state."""

    def _on_rollout_start(self):
        if self.num_timesteps != 128:
            return
        th.manual_seed(3)
        policy = self.model.policy
        with th.no_grad():
            policy.load_state_dict({name: th.randn_like(each) * 0.1 for name, each in policy.state_dict().items()})
            policy.value_net.weight.data = th.ones_like(policy.value_net.weight)
        policy.optimizer.load_state_dict(policy.optimizer.state_dict())

    def _on_step(self):
        return True


def test_weights_that_lie_elsewhere_are_found(monkeypatch, tape):
    plain, recorded = both(monkeypatch, "discrete", 4 * 64, callback=NewWeights)
    assert difference(plain, recorded) == 0.0
    assert tape.replays == 4 * 3 * 5


def test_the_kl_limit_stops_a_recorded_run(monkeypatch, tape):
    changes = dict(target_kl=1e-4, learning_rate=1e-2, batch_size=16, n_epochs=10)
    plain, recorded = both(monkeypatch, "discrete", 64, **changes)
    assert recorded.last_report.stopped_in_epoch is not None
    assert plain.last_report == recorded.last_report
    assert difference(plain, recorded) == 0.0


def step(weights, scale, rows):
    weights.sub_(scale * rows.mean(0))
    return (rows.sum(1), weights.sum())


def arguments_of(seed):
    th.manual_seed(seed)
    return th.tensor(0.5), th.randn(4, 3)


def test_results_outlive_the_next_call(tape):
    weights, expected = th.zeros(3), th.zeros(3)
    recorded = replay.recorded(step, weights.device, {0})
    kept = [recorded(weights, *arguments_of(seed)) for seed in range(4)]
    wanted = [step(expected, *arguments_of(seed)) for seed in range(4)]
    assert all(
        th.equal(*pair) for mine, theirs in zip(kept, wanted, strict=True) for pair in zip(mine, theirs, strict=True)
    )
    assert th.equal(weights, expected)
    assert tape.replays == 4


def refused(weights, scale, rows):
    if rows.sum().item() == 0.0:
        return (rows,)
    return step(weights, scale, rows)


class Forgetful:
    """Reads a number that is Python's: another one at each call."""

    calls = 0

    def __call__(self, weights, scale, rows):
        self.calls += 1
        return step(weights, scale * self.calls, rows)


@pytest.mark.parametrize(
    ("make", "why"), [(lambda: refused, "when stream is capturing"), (Forgetful, "it gave other numbers")]
)
def test_what_cannot_be_recorded_is_called(make, why, tape, caplog):
    """The first step is taken once, by the function itself; a recording is not trusted before it has agreed."""
    weights, expected = th.zeros(3), th.zeros(3)
    recorded, wanted = replay.recorded(make(), weights.device, {0}), make()
    first = recorded(weights, *arguments_of(0))
    assert all(map(th.equal, first, wanted(expected, *arguments_of(0))))
    assert th.equal(weights, expected)
    assert "steps are launched kernel by kernel, recording one failed: " in caplog.text
    assert why in caplog.text
    assert recorded.reason is not None
    replays = tape.replays
    recorded(weights, *arguments_of(1))
    assert tape.replays == replays
    assert len(caplog.records) == 1


def test_a_cpu_records_nothing():
    assert replay.recorded(step, th.device("cpu"), {0}) is step


def test_a_gpu_is_compiled_for_as_it_needs(monkeypatch):
    assert inductor.options_for(th.device("cuda"))["cpp_wrapper"] is False
    assert inductor.options_for(th.device("cpu"))["cpp_wrapper"] is True
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    assert inductor.missing_for(th.device("cuda")).startswith("Triton")
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    assert inductor.missing_for(th.device("cuda")) is None
