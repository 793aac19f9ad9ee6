"""Whoever reaches into a rollout, its buffer, its environments or the methods of the algorithm gets what stock SB3 gives: the same
weights, and the same numbers to look at.
"""

import contextlib
import inspect
import textwrap

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch.overrides import TorchFunctionMode

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.schedules import whole_copy
from sb3_ppo_notes.rollouts import NotesRolloutBuffer
from tests import environments
from tests.engine.test_compile import STEADY

PAIRS = {"ppo": (PPO, NotesPPO), "a2c": (A2C, NotesA2C)}
BOTH = pytest.mark.parametrize("pair", PAIRS)


def model_of(algorithm, **changes):
    own = dict(n_steps=8, batch_size=8, n_epochs=2) if issubclass(algorithm, PPO | NotesPPO) else dict(n_steps=5)
    env = make_vec_env("CartPole-v1", 2, seed=0)
    arguments = dict(learning_rate=1e-2, seed=0, device="cpu", policy_kwargs=dict(net_arch=[8])) | own | changes
    return algorithm("MlpPolicy", env, **arguments)


def learned(model, rollouts=4, callback=None, **more):
    return model.learn(rollouts * model.n_steps * model.n_envs, callback, log_interval=None, **more)


def assert_same(one, other):
    theirs = other.policy.state_dict()
    assert [name for name, weight in one.policy.state_dict().items() if not th.equal(weight, theirs[name])] == []


class At(BaseCallback):
    """Calls a function of the callback at one event."""

    def __init__(self, event, function):
        super().__init__()
        self.event, self.function, self.calls = event, function, 0

    def _at(self, event):
        if event == self.event:
            self.calls += 1
            self.function(self)

    def _on_step(self):
        self._at("step")
        return True

    def _on_rollout_end(self):
        self._at("rollout_end")


# -- callbacks ---------------------------------------------------------------------------------------------------------


def rewards(callback):
    callback.locals["rewards"][:] *= 0.3


def values(callback):
    callback.locals["values"].mul_(0.5)


def log_probs(callback):
    callback.locals["log_probs"].sub_(0.1)


def actions(callback):
    callback.locals["actions"][:] = 0


def the_observation_before(callback):
    callback.model._last_obs = callback.model._last_obs * 0.5


def the_start_of_an_episode(callback):
    callback.model._last_episode_starts = np.ones(2, dtype=bool)


STEPS = (rewards, values, log_probs, actions, the_observation_before, the_start_of_an_episode)


@BOTH
@pytest.mark.parametrize("change", STEPS, ids=lambda change: change.__name__)
def test_what_a_callback_changes_in_a_step_is_what_is_stored(pair, change):
    stock, ours = (learned(model_of(algorithm), 3, At("step", change)) for algorithm in PAIRS[pair])
    assert_same(ours, stock)


def test_what_somebody_puts_into_a_callback_of_sb3_is_somebodys_own(monkeypatch):
    on_step = CheckpointCallback._on_step
    monkeypatch.setattr(CheckpointCallback, "_on_step", lambda callback: values(callback) or on_step(callback))
    stock, ours = (learned(model_of(algorithm), 2, CheckpointCallback(10**9, "unused")) for algorithm in PAIRS["a2c"])
    assert_same(ours, stock)


def more_for_what_is_new(callback):
    """Intrinsic rewards as libraries of exploration add them: to advantages and returns, in place, once a rollout."""
    buffer = callback.model.rollout_buffer
    novelty = np.abs(buffer.observations).mean(axis=-1).reshape(buffer.advantages.shape)
    buffer.advantages += 0.1 * novelty
    buffer.returns += 0.1 * novelty


def more_at_once(callback):
    callback.locals["rewards"] += np.abs(callback.locals["new_obs"]).mean(axis=-1)


INTRINSIC = pytest.mark.parametrize(("event", "add"), [("rollout_end", more_for_what_is_new), ("step", more_at_once)])


@BOTH
@INTRINSIC
def test_intrinsic_rewards_of_a_callback_are_learned_from(pair, event, add):
    stock, ours = (learned(model_of(algorithm), 3, At(event, add)) for algorithm in PAIRS[pair])
    assert_same(ours, stock)
    assert far(ours, learned(model_of(PAIRS[pair][1]), 3)) > 0


@pytest.mark.slow
@INTRINSIC
def test_compiled_steps_learn_from_intrinsic_rewards(event, add):
    steady = dict(learning_rate=1e-3, policy_kwargs=dict(net_arch=[8]) | STEADY)
    theirs = learned(model_of(PPO, **steady), 3, At(event, add))
    ours = learned(model_of(NotesPPO, **steady, compile=True), 3, At(event, add))
    assert far(theirs, ours) < 1e-5


def in_double_precision(buffer):
    buffer.advantages = buffer.advantages - buffer.advantages.astype(np.float64).mean()


def the_returns_themselves(buffer):
    buffer.advantages = buffer.returns


def an_array_that_cannot_be_written(buffer):
    buffer.advantages = np.broadcast_to(buffer.advantages.mean(), buffer.advantages.shape)


def normalized_over_the_rollout(buffer):
    buffer.advantages = (buffer.advantages - buffer.advantages.mean()) / (buffer.advantages.std() + 1e-8)


REPLACED = (
    in_double_precision,
    the_returns_themselves,
    an_array_that_cannot_be_written,
    normalized_over_the_rollout,
)


@pytest.mark.parametrize(
    ("pair", "replace"),
    [
        pytest.param(
            pair,
            replace,
            id=f"{pair}-{replace.__name__}",
        )
        for pair in PAIRS
        for replace in REPLACED
    ],
)
def test_arrays_put_into_a_buffer_count_for_one_rollout(pair, replace):
    def once(callback):
        if callback.calls == 2:
            replace(callback.model.rollout_buffer)

    stock, ours = (
        learned(model_of(algorithm, normalize_advantage=False), 4, At("rollout_end", once)) for algorithm in PAIRS[pair]
    )
    assert_same(ours, stock)


def test_arrays_of_a_rollout_are_kept_by_whoever_keeps_them():
    kept = {}
    for algorithm in PAIRS["ppo"]:
        seen = kept[algorithm] = []

        def keep(callback, seen=seen):
            buffer = callback.model.rollout_buffer
            seen.append((buffer.observations, buffer.rewards, buffer.values))

        learned(model_of(algorithm), 3, At("rollout_end", keep))
    for stock, ours in zip(*kept.values(), strict=True):
        for one, other in zip(stock, ours, strict=True):
            assert np.array_equal(one.ravel(), other.ravel())


def test_samples_of_a_rollout_are_sb3s():
    seen = {}
    for algorithm in PAIRS["ppo"]:
        samples = seen[algorithm] = []

        def look(callback, samples=samples):
            for sample in callback.model.rollout_buffer.get(8):
                samples.append(sample)

        learned(model_of(algorithm), 2, At("rollout_end", look))
    for stock, ours in zip(*seen.values(), strict=True):
        assert type(ours) is type(stock)
        for one, other in zip(stock, ours, strict=True):
            assert one.dtype == other.dtype
            assert th.equal(one, other)


def in_place(buffer):
    buffer.advantages *= -1.0


def by_another(buffer):
    buffer.advantages = buffer.advantages * -1.0


@BOTH
@pytest.mark.parametrize("turn", [in_place, by_another])
def test_what_is_changed_after_samples_were_taken_counts(pair, turn):
    def look_and_turn(callback):
        buffer = callback.model.rollout_buffer
        next(buffer.get(4))
        turn(buffer)

    models = []
    for algorithm in PAIRS[pair]:

        class Twice(algorithm):
            def train(self):
                super().train()
                turn(self.rollout_buffer)
                super().train()

        models.append(learned(model_of(Twice, normalize_advantage=False), 3, At("rollout_end", look_and_turn)))
    assert_same(*models)


@BOTH
def test_at_the_end_of_a_rollout_actions_are_as_they_are_stored(pair):
    seen = []
    for algorithm in PAIRS[pair]:
        learned(model_of(algorithm), 1, At("rollout_end", lambda callback: seen.append(callback.locals["actions"])))
    assert seen[0].shape == seen[1].shape == (2, 1)


@BOTH
@pytest.mark.parametrize("is_reset", [True, False])
def test_a_buffer_takes_another_size(pair, is_reset):
    models = []
    for algorithm in PAIRS[pair]:
        model = learned(model_of(algorithm), 1)
        model.n_steps = model.rollout_buffer.buffer_size = 12
        if is_reset:
            model.rollout_buffer.reset()
        models.append(learned(model, 2, reset_num_timesteps=False))
    assert_same(*models)


# -- methods -----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_method_put_into_a_buffer_is_called(pair):
    models = []
    for algorithm in PAIRS[pair]:
        model = model_of(algorithm)
        add = model.rollout_buffer.add
        model.rollout_buffer.add = lambda obs, action, reward, *more, add=add: add(obs, action, reward * 0.5, *more)
        models.append(learned(model, 2))
    assert_same(*models)


def half_paid(step):
    def stepped(*given):
        observations, rewards, dones, infos = step(*given)
        return observations, rewards * 0.5, dones, infos

    return stepped


@BOTH
@pytest.mark.parametrize("where", ["instance", "class"])
def test_a_step_put_into_environments_is_called(pair, where, monkeypatch):
    models = []
    for algorithm in PAIRS[pair]:
        model = model_of(algorithm)
        owner = VecEnv if where == "class" else model.env
        with monkeypatch.context() as patch:
            patch.setattr(owner, "step", half_paid(owner.step))
            models.append(learned(model, 2))
    assert_same(*models)


def copied(owner, name):
    """A method as somebody would have it who copied SB3's source into a class of their own."""
    names = dict(vars(inspect.getmodule(owner)))
    exec(textwrap.dedent(inspect.getsource(getattr(owner, name))), names)
    return names[name]


@BOTH
@pytest.mark.parametrize("names", [("train",), ("collect_rollouts",), ("train", "collect_rollouts", "learn")])
def test_sb3s_own_methods_in_a_subclass_do_what_they_do_in_sb3(pair, names):
    stock, notes = PAIRS[pair]
    methods = {name: copied(stock if name == "train" else OnPolicyAlgorithm, name) for name in names}
    models = [learned(model_of(type("Mine", (algorithm,), methods)), 3) for algorithm in (stock, notes)]
    assert_same(*models)


# -- schedules ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("calls_super", [True, False])
def test_a_subclass_may_have_a_schedule_of_its_own(pair, calls_super):
    models = []
    for algorithm in PAIRS[pair]:

        class Mine(algorithm):
            def _setup_lr_schedule(self):
                super()._setup_lr_schedule()
                schedule = self.lr_schedule if calls_super else lambda progress: 0.01
                self.lr_schedule = lambda progress: schedule(progress) * 0.5

        models.append(learned(model_of(Mine), 2))
    assert_same(*models)


def answers_in_turn():
    answers = iter([0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005])
    return lambda progress: next(answers)


def answers_by_generator():
    answers = (0.3 / number for number in range(1, 9))
    return lambda progress: next(answers)


def counting():
    calls = 0

    def schedule(progress):
        nonlocal calls
        calls += 1
        return 0.3 / calls

    return schedule


def inside_another():
    schedule = counting()
    return lambda progress: schedule(progress) * 0.5


def at_random():
    return lambda progress: 0.1 + 0.1 * np.random.rand()


COUNT = [0]


def counting_in_its_module():
    COUNT[0] = 0

    def schedule(progress):
        COUNT[0] += 1
        return 0.3 / COUNT[0]

    return schedule


SCHEDULES = (counting_in_its_module, answers_in_turn, answers_by_generator, counting, inside_another, at_random)


@pytest.mark.parametrize("name", ["clip_range", "clip_range_vf", "learning_rate"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
def test_a_schedule_with_a_state_is_asked_as_often_as_by_stock(schedule, name):
    models = []
    for algorithm in PAIRS["ppo"]:
        set_random_seed(3)
        models.append(learned(model_of(algorithm, seed=None, **{name: schedule()}), 3))
    assert_same(*models)
    stock, ours = (model.logger.name_to_value[f"train/{name}"] for model in models)
    assert ours == stock


def test_a_copy_that_shares_nothing_is_asked_in_the_constructor():
    limit = -1.0
    with pytest.raises(ValueError, match="^clip_range schedule returned -1.0 at progress 1.0"):
        model_of(NotesPPO, clip_range=lambda progress: max(limit, -2.0) * progress)
    assert whole_copy(at_random()) is None


# -- memory ------------------------------------------------------------------------------------------------------------

MOVED = (
    "the first update moves weights into a vector of its own (engine/vectors.py), whoever else looks at their memory"
)


def test_weights_in_shared_memory_stay_there():
    model = model_of(NotesPPO)
    model.policy.share_memory()
    assert all(weight.is_shared() for weight in learned(model, 1).policy.parameters())


@pytest.mark.xfail(strict=True, reason=MOVED)
@pytest.mark.parametrize("view", [lambda weight: weight.data, lambda weight: weight.detach().numpy()])
def test_who_looks_at_the_memory_of_a_weight_sees_it_learn(view):
    model = model_of(NotesPPO)
    weight = model.policy.value_net.weight
    seen = view(weight)
    learned(model, 1)
    assert np.array_equal(np.asarray(seen), weight.detach().numpy())


def transposed(policy):
    for weight in policy.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.t().contiguous().t()


def channels_last(policy):
    policy.to(memory_format=th.channels_last)


@pytest.mark.parametrize(("lay", "space"), [(transposed, "box"), (channels_last, "image")])
def test_weights_keep_the_layout_they_have(lay, space):
    models = []
    for algorithm in PAIRS["a2c"]:
        policy = "CnnPolicy" if space == "image" else "MlpPolicy"
        env = DummyVecEnv([lambda: environments.make(space)] * 2)
        arguments = dict(n_steps=16, seed=0, device="cpu", learning_rate=1e-2, policy_kwargs=dict(net_arch=[64, 64]))
        model = algorithm(policy, env, **arguments)
        lay(model.policy)
        models.append(learned(model, 3))
    assert_same(*models)


def test_gradients_are_left_behind_as_by_stock():
    gradients = []
    for algorithm in PAIRS["ppo"]:
        model = learned(model_of(algorithm, n_epochs=4, target_kl=1e-5), 6)
        gradients.append([weight.grad.clone() for weight in model.policy.parameters()])
    assert all(map(th.equal, *gradients))


class Halving(TorchFunctionMode):
    """Halves what a linear layer gives."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        return result * 0.5 if function is th.nn.functional.linear else result


def lossy():
    """What autograd keeps loses half its digits."""

    def pack(tensor):
        return tensor.half() if tensor.is_floating_point() else tensor

    return th.autograd.graph.saved_tensors_hooks(
        pack, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor
    )


class Inside(BaseCallback):
    """Updates are made inside of a context, but for the first four: steps are recorded by then."""

    def __init__(self, context):
        super().__init__()
        self.context, self.updates = context, 0

    def _on_training_start(self):
        train = type(self.model).train

        def inside():
            self.updates += 1
            with self.context() if self.updates > 4 else contextlib.nullcontext():
                train(self.model)

        self.model.train = inside

    def _on_step(self):
        return True


@BOTH
@pytest.mark.parametrize("context", [Halving, lossy, lambda: th.device("cpu")])
def test_who_listens_to_every_operation_is_heard(pair, context):
    stock, ours = (learned(model_of(algorithm), 7, Inside(context)) for algorithm in PAIRS[pair])
    assert_same(ours, stock)


# -- compiled ----------------------------------------------------------------------------------------------------------


def far(one, other):
    theirs = other.policy.state_dict()
    return max((weight - theirs[name]).abs().max().item() for name, weight in one.policy.state_dict().items())


@pytest.mark.slow
@BOTH
def test_compiled_steps_take_advantages_in_double_precision(pair):
    def once(callback):
        if callback.calls == 2:
            in_double_precision(callback.model.rollout_buffer)

    stock, notes = PAIRS[pair]
    steady = dict(learning_rate=1e-3, policy_kwargs=dict(net_arch=[8]) | STEADY)
    # One after the other: a model's seed is set when it is built.
    theirs = learned(model_of(stock, **steady), 4, At("rollout_end", once))
    ours = learned(model_of(notes, **steady, compile=True), 4, At("rollout_end", once))
    assert far(theirs, ours) < 1e-5


@pytest.mark.slow
def test_compiled_steps_take_weights_of_another_layout():
    models = []
    for algorithm, compiles in ((PPO, {}), (NotesPPO, dict(compile=True))):
        model = model_of(algorithm, learning_rate=1e-3, policy_kwargs=dict(net_arch=[8]) | STEADY, **compiles)
        transposed(model.policy)
        models.append(learned(model, 3))
    assert far(*models) < 1e-5


def absolute_advantages(buffer_class):
    class Own(buffer_class):
        def _get_samples(self, *arguments, **more):
            samples = super()._get_samples(*arguments, **more)
            return samples._replace(advantages=samples.advantages.abs())

    return Own


def doubled_observations(buffer_class):
    class Own(buffer_class):
        def to_torch(self, array, copy=True):
            tensor = super().to_torch(array, copy)
            return tensor * 2 if tensor.shape[1:] == (4,) else tensor

    return Own


@BOTH
@pytest.mark.parametrize("own", [absolute_advantages, doubled_observations])
def test_what_a_subclass_of_our_buffer_does_to_samples_counts(pair, own):
    stock, ours = PAIRS[pair]
    theirs = learned(model_of(stock, rollout_buffer_class=own(RolloutBuffer)))
    mine = learned(model_of(ours, rollout_buffer_class=own(NotesRolloutBuffer)))
    assert_same(mine, theirs)
    assert "in a way of its own" in str(mine.engine.report())


@BOTH
def test_a_method_of_samples_put_into_our_buffer_is_called(pair):
    models = []
    for algorithm in PAIRS[pair]:
        model = learned(model_of(algorithm), rollouts=1)
        buffer = model.rollout_buffer
        buffer._get_samples = lambda *a, own=buffer._get_samples, **k: (
            lambda samples: samples._replace(returns=samples.returns * 0)
        )(own(*a, **k))
        models.append(learned(model, reset_num_timesteps=False))
    assert_same(*reversed(models))


class Counting(th.nn.Parameter):
    """A weight whose class has a word in every operation, and changes its mind."""

    calls = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with th._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
        if function is th.nn.functional.linear and th.is_grad_enabled():
            Counting.calls += 1
            result = result * (1.1 if Counting.calls > 60 else 1.0)
        return result


def test_a_weight_of_a_class_of_its_own_is_asked_at_every_step():
    models = []
    for algorithm in PAIRS["ppo"]:
        Counting.calls = 0
        model = model_of(algorithm, n_steps=64)
        model.policy.action_net.weight = Counting(model.policy.action_net.weight.detach().clone())
        model.policy.optimizer = th.optim.Adam(model.policy.parameters(), 1e-3, eps=1e-5)
        models.append((learned(model), Counting.calls))
    (theirs, expected), (mine, calls) = models
    assert calls == expected > 60
    assert_same(mine, theirs)


def half_the_deviation(distribution):
    distribution.get_std = lambda log_std, own=distribution.get_std: own(log_std) * 0.5


def no_noise(distribution):
    distribution.get_noise = lambda latent, own=distribution.get_noise: own(latent) * 0


def another_epsilon(distribution):
    distribution.bijector.epsilon = 0.3


@pytest.mark.parametrize("change", [half_the_deviation, no_noise, another_epsilon])
def test_what_is_changed_in_the_distribution_of_gsde_counts(change):
    models = []
    for algorithm in PAIRS["ppo"]:
        policy = dict(net_arch=[8], squash_output=change is another_epsilon)
        model = algorithm(
            "MlpPolicy",
            "Pendulum-v1",
            n_steps=64,
            batch_size=16,
            seed=0,
            device="cpu",
            use_sde=True,
            policy_kwargs=policy,
        )
        learned(model, rollouts=4)
        change(model.policy.action_dist)
        models.append(learned(model, rollouts=4, reset_num_timesteps=False))
    assert_same(*reversed(models))
