"""Trainings in shards, quickly: on one process that holds all shards, or on processes forked from the test's own. That
real groups do the same is tested in ``test_equality.py``, for every kind of training.
"""

import contextlib
import copy
import io
import logging
import math
import pickle
from collections import deque
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.algorithms import on_policy
from sb3_ppo_notes.algorithms.processes import Episodes, digest_of
from sb3_ppo_notes.callbacks import MaskableEvalCallback
from sb3_ppo_notes.envs import ShardedVecEnv
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.processes import Alone, Shards
from sb3_ppo_notes.rollouts import NotesRolloutBuffer
from tests.processes import cases
from tests.processes.forked import outcomes, values
from tests.processes.test_equality import largest_difference, learn_from_union

pytestmark = pytest.mark.filterwarnings("ignore:batch_size=")
N_UPDATES = 2


def learn(group, name, callback=None, n_updates=N_UPDATES, n_shards=2):
    """A case in so many shards."""
    n_own = n_shards // group.size
    model = cases.build(name, group, n_shards, n_own, cases.N_ENVS // group.size)
    return model.learn(n_updates * model.n_steps * cases.N_ENVS, callback=callback)


NAMES = [
    *("PPO", "PPO, ragged minibatches", "A2C", "memory", "early stop", "early stop of the policy, exact KL"),
    *("KL penalty", "normalised over the rollout", "separate optimisers", "adaptive learning rate"),
]


@pytest.mark.parametrize("name", NAMES)
def test_two_shards_learn_and_say_what_one_process_does_from_both_their_rollouts(name, monkeypatch):
    recorder = cases.Recorder()
    model = learn(Alone(), name, recorder)
    union = learn_from_union(name, [recorder.rollouts], monkeypatch)
    assert largest_difference(model.policy.state_dict(), union.policy.state_dict()) <= 1e-6
    for field in ("policy_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "explained_variance"):
        one, other = (getattr(each.last_report, field) for each in (model, union))
        assert one == pytest.approx(other, abs=1e-5, rel=1e-4), field
    one, other = model.last_report, union.last_report
    assert (one.n_gradient_steps, one.stop_reason) == (other.n_gradient_steps, other.stop_reason)
    assert (one.ratio_min, one.ratio_max) == pytest.approx((other.ratio_min, other.ratio_max), abs=1e-4)
    assert model.rule_state == pytest.approx(union.rule_state) or model.rule_state == union.rule_state


def summary(group, name):
    model = learn(group, name)
    report = model.last_report
    return {
        "weights": digest_of(model.policy),
        "report": str(report),
        "rule state": model.rule_state,
        "steps": model.num_timesteps,
        "episodes": [(info["r"], info["l"]) for info in model.ep_info_buffer],
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_and_words_on_two_processes(name):
    (alone,) = values(summary, 1, name)
    for each in values(summary, 2, name):
        assert each == alone
    assert alone["episodes"] != []


class Draws(BaseCallback):
    """Draws from everybody's generators."""

    def _on_step(self):
        th.rand(1), np.random.rand()
        return True


@pytest.mark.parametrize("name", ["PPO", "memory"])
def test_nobody_elses_random_numbers_change_a_training_in_shards(name):
    assert digest_of(learn(Alone(), name, Draws()).policy) == digest_of(learn(Alone(), name).policy)


def test_everybodys_random_numbers_go_on_as_if_nobody_had_trained():
    model = learn(Alone(), "PPO", n_updates=1)
    th.manual_seed(5)
    expected = th.rand(3)
    th.manual_seed(5)
    model.train()
    assert th.equal(th.rand(3), expected)


@pytest.mark.parametrize("name", ["PPO", "compiled"])
def test_a_step_that_is_refused_leaves_the_gradient_of_the_last_one_that_was_taken(name, monkeypatch):
    """As without shards, and as in SB3: a callback may look at it."""
    monkeypatch.setitem(cases.CASES, name, (*cases.CASES[name][:2], cases.CASES[name][2] | {"target_kl": 1e-6}))
    recorder = cases.Recorder()
    model = learn(Alone(), name, recorder, n_updates=24)  # of two minibatches each, so that the last are recorded
    assert model.last_report.stopped_in_epoch == 0
    union = learn_from_union(name, [recorder.rollouts], monkeypatch)
    for one, other in zip(model.policy.parameters(), union.policy.parameters(), strict=True):
        assert other.grad.abs().max() > 0
        np.testing.assert_allclose(one.grad, other.grad, atol=1e-5)


# -- what one process alone does --------------------------------------------------------------------------------------


def cart_poles(n_shards=1, n_each=1):
    parts = [make_vec_env("CartPole-v1", n_each) for _ in range(n_shards)]
    return parts[0] if n_shards == 1 else ShardedVecEnv(parts)


def small(group, n_shards=2, env=None, **arguments):
    env = env or cart_poles(n_shards // group.size)
    arguments = dict(n_steps=16, batch_size=32, n_epochs=1, seed=3, device="cpu") | arguments
    return NotesPPO("MlpPolicy", env, processes=group, shards=n_shards, **arguments)


class StopsAt(BaseCallback):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def _on_step(self):
        return self.n_calls != self.call


def stopped_by_rank_1(group, call):
    model = small(group, n_steps=128, batch_size=256)
    model.learn(1024, StopsAt(call if group.rank == 1 else 0))
    return model.num_timesteps, model.n_epochs, digest_of(model.policy)


@pytest.mark.parametrize(("call", "steps"), [(1, 128), (64, 128), (65, 256), (128, 256), (129, 384)])
def test_all_leave_at_the_same_step_when_one_wishes_to(call, steps):
    first, second = values(stopped_by_rank_1, 2, call)
    assert first == second
    assert first[0] == steps


def printed(group):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        model = small(group, verbose=1, target_kl=1e-9)
        model.set_logger(configure(None, ["stdout"]))
        model.learn(64)
    return out.getvalue()


def test_the_first_process_alone_prints():
    first, second = values(printed, 2)
    assert "Using cpu device" in first
    assert "rollout/" in first
    assert second == ""


class PaysTooMuch(gym.RewardWrapper):
    def reward(self, reward):
        return 1e30


def skipped(group):
    logging.getLogger("sb3_ppo_notes").addHandler(logging.StreamHandler(out := io.StringIO()))
    env = make_vec_env("CartPole-v1", 1, wrapper_class=PaysTooMuch if group.rank == 1 else None)
    model = small(group, env=env, on_nonfinite="skip_update").learn(64)
    return out.getvalue(), model.skipped_updates


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_first_process_alone_tells_what_all_have_skipped():
    first, second = values(skipped, 2)
    assert first[0].count("from shard 1 of 2") == 2
    assert second[0] == ""
    assert first[1] == second[1] == 2


class ChangesAWeight(BaseCallback):
    def _on_step(self):
        if self.n_calls == 17:
            with th.no_grad():
                next(self.model.policy.parameters()).add_(1e-3)
        return True


def changed_in_rank_1(group, when):
    model = small(group)
    callback = None
    if when == "at the second update":
        on_policy.UPDATES_BETWEEN_COMPARISONS = 2
    if group.rank == 1 and when == "before":
        ChangesAWeight._on_step(type("", (), {"n_calls": 17, "model": model}))
    elif group.rank == 1:
        callback = ChangesAWeight()
    model.learn(64 if when == "at the end" else 96, callback)


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ("before", "weights must be equal"),
        ("at the second update", "weights after 64 steps must be equal"),
        ("at the end", "weights at the end must be equal"),
    ],
    ids=["before", "at the second update", "at the end"],
)
def test_weights_that_one_process_has_changed_are_noticed(when, words):
    for kind, text, _ in outcomes(changed_in_rank_1, 2, when):
        assert kind == "error"
        assert text.startswith(f"ProcessesDivergedError: {words} in all processes: of rank 1 ")


def other_arguments_in_rank_1(group, what):
    model = small(group)
    if group.rank == 1 and what == "n_epochs":
        model.n_epochs = 2
    if group.rank == 1 and what == "number of trained weights":
        model.policy.value_net.requires_grad_(False)
    model.learn(96 if group.rank == 1 and what == "total_timesteps" else 64)


@pytest.mark.parametrize(
    ("what", "got"),
    [("n_epochs", [1, 2]), ("total_timesteps", [64, 96]), ("number of trained weights", [9155, 9090])],
    ids=["n_epochs", "total_timesteps", "weights"],
)
def test_learning_with_other_arguments_in_one_process_is_refused_at_once(what, got):
    for _, text, _ in outcomes(other_arguments_in_rank_1, 2, what):
        assert text == f"InvalidValueError: {what} must be the same in all processes, got {got}"


def other_environments_in_rank_1(group, name, number):
    small(group, env=make_vec_env(name, number) if group.rank == 1 else cart_poles())


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("CartPole-v1", 2, "equally many environments in all processes, got [1, 2]"),
        ("Acrobot-v1", 1, "the same spaces"),
    ],
    ids=["number", "spaces"],
)
def test_other_environments_in_one_process_are_refused(name, number, words):
    for _, text, _ in outcomes(other_environments_in_rank_1, 2, name, number):
        assert text.startswith(f"InvalidValueError: env must have {words}")


def watched_in_rank_1(group):
    seen = []

    class Watches(BaseCallback):
        needs_exact_kl = True

        def _on_step(self):
            return True

        def on_minibatch(self, report):
            seen.append(report.approx_kl)
            self.model.predict(np.zeros((1, 4), np.float32))
            digest_of(self.model.policy)

        on_epoch = on_update = on_minibatch

    model = small(group, n_steps=64, batch_size=8, n_epochs=3)
    model.learn(256, Watches() if group.rank == 1 else None)
    return digest_of(model.policy), bool(seen) == (group.rank == 1), str(model.engine.report())


def test_a_watcher_in_one_process_changes_nothing():
    first, second = values(watched_in_rank_1, 2)
    (alone,) = values(watched_in_rank_1, 1)
    assert first[0] == second[0] == alone[0]
    assert first[1]
    assert second[1]
    assert "recorded" in first[2]


def advanced_bar(group):
    advanced = []

    class Bar:
        def __init__(self, total):
            self.total = total

        def update(self, steps):
            advanced.append(steps)

        def refresh(self):
            pass

        close = refresh

    on_policy.ProgressBarCallback._on_training_start.__globals__["tqdm"] = Bar
    small(group).learn(64, progress_bar=True)
    return sum(advanced)


def test_the_progress_bar_goes_on_by_the_steps_of_all_and_is_the_first_ones():
    assert values(advanced_bar, 2) == [64, 0]


# -- statistics, seeds, files, and what cannot be divided ---------------------------------------------------------------


def test_episode_statistics_are_of_the_last_episodes_of_all_shards():
    episodes = Episodes(Shards(Alone(), 2, seed=0))
    for number in range(160):
        infos = [{}, {}]
        infos[number % 2] = {"episode": {"r": number}, "is_success": number % 2}
        episodes.add(infos, [True, True], number)
    model = SimpleNamespace(ep_info_buffer=deque(maxlen=100), ep_success_buffer=deque(maxlen=100))
    episodes.merge_into(model)
    assert [info["r"] for info in model.ep_info_buffer] == list(range(60, 160))
    assert sum(model.ep_success_buffer) == 50


def test_episodes_of_a_run_that_was_stopped_are_not_counted_in_the_next():
    model = small(Alone(), n_steps=128, batch_size=256)
    model.learn(1024, StopsAt(40))
    assert any(model._episodes.pending)
    model.learn(256)
    assert sum(info["l"] for info in model.ep_info_buffer) <= 256


def mean_of_ranks(group):
    buffer = small(group).rollout_buffer
    return buffer.mean_over_shards(th.arange(32.0)[16 * group.rank : 16 * (group.rank + 2 // group.size)])


def test_a_mean_over_the_rollout_is_over_that_of_all():
    assert values(mean_of_ranks, 2) == [15.5, 15.5]
    assert values(mean_of_ranks, 1) == [15.5]


@pytest.mark.parametrize("kind", [EvalCallback, MaskableEvalCallback])
@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_an_evaluation_has_the_statistics_of_several_shards_or_is_refused(kind):
    env = ShardedVecEnv([VecNormalize(make_vec_env("CartPole-v1", 1)) for _ in range(2)])
    evaluation = kind(VecNormalize(make_vec_env("CartPole-v1", 1), training=False), eval_freq=16, verbose=0)
    model = small(Alone(), env=env)
    if kind is EvalCallback:
        with pytest.raises(InvalidValueError, match="callback must have MaskableEvalCallback .* got EvalCallback"):
            model.learn(64, [evaluation])
    else:
        model.learn(64, [evaluation])
        assert evaluation.eval_env.obs_rms.count > 32


def test_another_seed_is_another_training():
    trained = []
    for seed in (3, 5, None):
        model = small(Alone())
        model.set_random_seed(seed)
        trained.append(model.learn(64).rollout_buffer.observations.tobytes())
    assert trained[0] == trained[2] != trained[1]


def test_a_copy_of_a_model_learns_on():
    model = small(Alone()).learn(32)
    other = copy.deepcopy(model)
    digests = [digest_of(each.learn(32, reset_num_timesteps=False).policy) for each in (model, other)]
    assert digests[0] == digests[1]


def copied(group):
    model = small(group).learn(64)
    other = copy.deepcopy(model)
    return [digest_of(each.learn(32, reset_num_timesteps=False).policy) for each in (model, other)]


def test_a_copy_is_of_the_same_real_group():
    assert len({each for both in values(copied, 2, is_real=True) for each in both}) == 1


def test_a_file_of_a_sharded_model_loads_anywhere(tmp_path):
    model = small(Alone()).learn(32)
    model.save(tmp_path / "model")
    alone = NotesPPO.load(tmp_path / "model", make_vec_env("CartPole-v1", 3), device="cpu")
    assert alone.processes is None
    alone.learn(48)
    sharded = NotesPPO.load(tmp_path / "model", cart_poles(2), device="cpu", processes=Alone(), shards=2)
    sharded.learn(32)
    with pytest.raises(InvalidValueError, match="env must be a ShardedVecEnv of 2 vectorised environments"):
        NotesPPO.load(tmp_path / "model", make_vec_env("CartPole-v1", 3), device="cpu", processes=Alone(), shards=2)


class Doubles(NotesRolloutBuffer):
    def to_torch(self, array, copy=True):
        return super().to_torch(array, copy)


def test_samples_that_somebody_else_hands_out_are_refused_by_name():
    model = small(Alone(), rollout_buffer_class=Doubles)
    with pytest.raises(InvalidValueError, match=r"rollout_buffer must be .* got minibatches of RolloutBufferSamples"):
        model.learn(32)
    model = small(Alone())
    model.rollout_buffer = RolloutBuffer(16, model.observation_space, model.action_space, device="cpu", n_envs=2)
    with pytest.raises(InvalidValueError, match=r"rollout_buffer must be .* got minibatches of RolloutBufferSamples"):
        model.learn(32)


@pytest.mark.parametrize("arguments", [{"batch_size": 512}, {"n_steps": 1, "batch_size": 2}, {"batch_size": 6}])
def test_minibatches_of_any_size(arguments):
    model = small(Alone(), normalize_advantage=True, **arguments).learn(32)
    assert math.isfinite(model.last_report.policy_loss)


def with_an_own_step(group):
    class Mine(th.optim.SGD):
        def step(self, closure=None):
            self.n_calls = getattr(self, "n_calls", 0) + 1
            return super().step(closure)

    options = {"momentum": 0.9, "weight_decay": 0.1}
    model = small(group, batch_size=8, policy_kwargs={"optimizer_class": Mine, "optimizer_kwargs": options})
    for weight in model.policy.mlp_extractor.value_net.parameters():
        weight.requires_grad_(False)
    # It has no part in the loss, and no gradient.
    model.policy.unused = th.nn.Linear(2, 2)
    model.policy.optimizer.add_param_group({"params": list(model.policy.unused.parameters())})
    before = model.policy.unused.weight.tolist()
    model.learn(64)
    assert model.policy.unused.weight.tolist() == before
    return model.policy.optimizer.n_calls, digest_of(model.policy)


def test_an_optimiser_that_takes_no_vectors_and_weights_without_gradient():
    first, second = values(with_an_own_step, 2)
    (alone,) = values(with_an_own_step, 1)
    assert first == second == alone
    assert alone[0] == 8


def with_dropout(group):
    model = small(group)
    model.policy.mlp_extractor.policy_net.append(th.nn.Dropout(0.5))
    return digest_of(model.learn(64).policy)


def test_each_shard_drops_out_by_its_own_generator():
    assert len({*values(with_dropout, 2), *values(with_dropout, 1)}) == 1


def test_a_checkpoints_generators_can_be_pickled():
    generator = small(Alone())._shards.generators[1]
    before = pickle.loads(pickle.dumps(generator.state_dict()))
    with generator.drawing():
        first = th.rand(3)
    generator.load_state_dict(before)
    with generator.drawing():
        assert th.equal(th.rand(3), first)


def test_processes_that_train_apart_without_a_word_are_warned_of(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    NotesPPO("MlpPolicy", "CartPole-v1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    NotesPPO("MlpPolicy", "CartPole-v1", processes=None)
    with pytest.warns(UserWarning, match="each of 2 processes .* processes='auto' trains one") as warned:
        NotesPPO("MlpPolicy", "CartPole-v1")
    assert warned[0].filename == __file__
    monkeypatch.delenv("RANK")  # of somebody else's launcher
    NotesPPO("MlpPolicy", "CartPole-v1")
