"""A run on several processes that is cut anywhere and resumed on any number of them equals the straight run."""

import copy
import json
import os
import random
import resource
import signal
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.normalizers import statistics_of
from sb3_ppo_notes.algorithms.processes import digest_of
from sb3_ppo_notes.envs import LeanVecEnv, ShardedVecEnv
from sb3_ppo_notes.envs.wrappers import StreamingNormalize
from sb3_ppo_notes.persistence import (
    CheckpointCorruptError,
    ExactCheckpoint,
    GracefulStop,
    StopOnSignal,
    load_checkpoint,
    save_checkpoint,
    shards,
)
from sb3_ppo_notes.persistence.storage import MANIFEST, checkpoints_in, read_checkpoint, read_manifest
from sb3_ppo_notes.processes import Alone
from sb3_ppo_notes.rules import UpdateRule
from tests.environments import SPACES, SpaceEnv
from tests.persistence.cases import Doors, disturb
from tests.processes.forked import outcomes, values

V, T = 4, 128
SMALL = dict(n_steps=T, batch_size=256, n_epochs=1, seed=3, device="cpu", learning_rate="lin_1e-2")
NET = dict(policy_kwargs=dict(net_arch=[8]))
TOTAL = 3 * T * 2 * V


def cart_poles():
    return make_vec_env("CartPole-v1", 2)


def spaces_of_their_own(name):
    """Environments draw their observations from their spaces, which must not be those of another."""
    return make_vec_env(lambda: SpaceEnv(*copy.deepcopy(SPACES[name])), 2)


def cut_pendulums(length):
    return make_vec_env("Pendulum-v1", 2, env_kwargs={"max_episode_steps": length})


#: Environments of a shard, policy and arguments.
CASES = {
    "mlp": (cart_poles, "MlpPolicy", NET),
    "normalize": (lambda: VecNormalize(cart_poles()), "MlpPolicy", NET),
    "streaming": (lambda: StreamingNormalize(make_vec_env("Pendulum-v1", 2)), "MlpPolicy", NET),
    "stacked": (lambda: VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1", 2)), 2), "MlpPolicy", NET),
    "lstm": (cart_poles, "MlpLstmPolicy", dict(policy_kwargs=dict(lstm_hidden_size=8))),
    "masked": (lambda: make_vec_env(Doors, 2), "MlpPolicy", NET | dict(action_masking=True)),
    "dict": (lambda: spaces_of_their_own("dict"), "MultiInputPolicy", NET),
    "image": (lambda: spaces_of_their_own("image"), "CnnPolicy", {}),
    # Episodes end at the very steps at which the processes ask each other.
    "short": (lambda: cut_pendulums(8), "MlpPolicy", NET),
    "every_epoch": (lambda: cut_pendulums(11), "MlpPolicy", NET | dict(rule=UpdateRule(computed="every_epoch"))),
}


def environments(name, group, n_shards=V):
    n = n_shards // group.size
    make_shard = CASES[name][0]
    return make_shard() if n == 1 else ShardedVecEnv([make_shard() for _ in range(n)])


def new_model(name, group, n_shards=V):
    _, policy, arguments = CASES[name]
    return NotesPPO(policy, environments(name, group), processes=group, shards=n_shards, **SMALL | arguments)


class RequestAt(BaseCallback):
    """A signal that comes to one process."""

    def __init__(self, stop, at, rank, group):
        super().__init__()
        self.stop, self.at, self.rank, self.group = stop, at, rank, group  # arguments: no memory

    def _on_step(self):
        if self.rank == self.group.rank and self.num_timesteps >= self.at:
            self.stop.requested = int(signal.SIGTERM)
        return True


class Count(BaseCallback):
    """A memory, of every process."""

    def __init__(self):
        super().__init__()
        self.total = 0.0

    def _on_step(self):
        self.total += float(np.sum(self.locals["rewards"]))
        return True


def state_of(model):
    """All that a straight run and a resumed one share, of this process's shards."""
    return {
        "weights": digest_of(model.policy),
        "optimiser": [np.asarray(value).tobytes() for each in model.policy.optimizer.state_dict()["state"].values() for value in each.values()],
        "counters": (model.num_timesteps, model._n_updates, model._iteration),
        "episodes": [(info["r"], info["l"]) for info in model.ep_info_buffer],
        "generators": [repr(each.state_dict()) for each in model._shards.generators],
        "observations": _bytes(model._last_obs, model),
        "statistics": [repr([statistics_of(each) for each in each_of]) for each_of in model._normalizers.of_shards],
        "report": model.last_report and repr(model.last_report.approx_kl),
    }  # fmt: skip


def _bytes(observations, model):
    parts = model._shards.split(model.n_envs)
    if isinstance(observations, dict):
        return [b"".join(observations[key][part].tobytes() for key in observations) for part in parts]
    return [observations[part].tobytes() for part in parts]


def of_all(states):
    """Of all processes: what is of all once, what is of shards in their order."""
    of_shards = ("generators", "observations", "statistics")
    for name in states[0].keys() - {*of_shards}:
        assert all(state[name] == states[0][name] for state in states), name
    return states[0] | {name: [each for state in states for each in state[name]] for name in of_shards}


def straight(group, name):
    return state_of(new_model(name, group).learn(TOTAL))


def run(group, name, folder, cuts):
    """From the beginning, or from the newest checkpoint, to the next cut or the end."""
    disturb()
    is_new = not checkpoints_in(folder)
    if is_new:
        model = new_model(name, group)
    else:
        model = load_checkpoint(folder, environments(name, group), device="cpu", processes=group)
        assert model.resume_report.is_exact, model.resume_report
    disturb()
    total = TOTAL if is_new else model.resume_report.remaining_timesteps
    with GracefulStop() as stop:
        request = RequestAt(stop, cuts[0] if cuts else 10**9, group.size - 1, group)
        callbacks = [ExactCheckpoint(10**6, path=folder), request, StopOnSignal(stop)]
        model.learn(total, callbacks, reset_num_timesteps=is_new)
    return state_of(model)


def check(name, sizes, cuts, folder):
    folder.mkdir(exist_ok=True)
    expected = of_all(values(straight, 1, name))
    for number, size in enumerate(sizes):
        found = of_all(values(run, size, name, folder, cuts[number:]))
    for part in expected:
        assert found[part] == expected[part] or (part, found[part]) == ("report", None), part


# A rollout of all is 1024 steps: within the second, and within the third.
CUTS = (1400, 2500)


def test_a_run_cut_twice_ends_as_the_straight_one(tmp_path):
    check("normalize", (2, 1, 2), CUTS, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), [("normalize", (1, 4, 2)), *((name, (4, 2, 1)) for name in CASES)], ids=str)
def test_a_run_begun_on_four_processes_goes_on_on_two_and_on_one(name, sizes, tmp_path):
    generator = random.Random(f"{name} {sizes}")
    check(name, sizes, sorted(generator.sample(range(100, TOTAL - 600), 2)), tmp_path / "run")


def test_a_checkpoint_after_the_last_rollout_goes_on_exactly(tmp_path):
    check("normalize", (2, 1), (TOTAL - 1,), tmp_path / "run")


@pytest.mark.parametrize("n_each", [1, 2])
def test_images_of_several_shards_lie_in_memory_as_those_of_one(n_each):
    """Or they would be convolved in another order, and the last bit would differ."""
    images = np.random.default_rng(0).random((3 * n_each, 5, 4, 1)).transpose(0, 3, 1, 2)
    joined = shards._joined(np.split(images, 3))
    np.testing.assert_array_equal(joined, images)
    assert joined.strides == images.strides


def stopped_by_a_callback(group, folder):
    """The step at which a callback ends the run is in the checkpoint."""
    model = new_model("short", group)
    checkpoint = ExactCheckpoint(10**6, path=folder)
    stop = _StopAt(1500, group)
    model.learn(TOTAL, [checkpoint, stop])
    pending = [len(each) for each in model._episodes.pending]
    save_checkpoint(model, folder)
    assert [len(each) for each in model._episodes.pending] == pending
    assert model._paused_at is None


class _StopAt(BaseCallback):
    def __init__(self, at, group):
        super().__init__()
        self.at, self.group = at, group

    def _on_step(self):
        return self.group.rank != 0 or self.num_timesteps < self.at


def test_a_callback_of_one_process_that_stops_leaves_a_checkpoint_of_all(tmp_path):
    expected = of_all(values(straight, 1, "short"))
    values(stopped_by_a_callback, 2, tmp_path)
    assert of_all(values(run, 1, "short", tmp_path, ())) == expected


def written(group, folder, n_shards=V):
    model = NotesPPO("MlpPolicy", environments("mlp", group, n_shards), processes=group, shards=n_shards, **SMALL | NET)
    model.learn(1024)
    return str(save_checkpoint(model, folder))


def loaded(group, folder, **arguments):
    return load_checkpoint(folder, environments("mlp", group), processes=group, **arguments).num_timesteps


def test_what_belongs_to_a_shard_is_in_a_folder_of_its_own(tmp_path):
    path = values(written, 2, tmp_path)
    assert path[0] == path[1]
    files = {str(each.relative_to(path[0])) for each in checkpoints_in(tmp_path)[0].rglob("*") if each.is_file()}
    shards = {f"shard-0{n}/{name}" for n in range(V) for name in ("state.json", "arrays.safetensors")}
    assert files == shards | {"state.json", "arrays.safetensors", MANIFEST}
    manifest = read_manifest(checkpoints_in(tmp_path)[0])
    assert manifest["version"] == 2
    assert set(manifest["files"]) == files - {MANIFEST}


def test_other_numbers_of_shards_or_processes_are_refused_by_name(tmp_path):
    values(written, 2, tmp_path)
    env = environments("mlp", Alone())
    with pytest.raises(ValueError, match="^shards must be 4 as in the checkpoint to resume, got 2"):
        load_checkpoint(tmp_path, env, processes=Alone(), shards=2)
    with pytest.raises(ValueError, match="^processes must be 'auto' or a Group to resume .* of a run of 4 shards, got"):
        load_checkpoint(tmp_path, env)
    with pytest.raises(ValueError, match="^env must be a ShardedVecEnv of 4 vectorised environments"):
        load_checkpoint(tmp_path, cart_poles(), processes=Alone())
    fewer = ShardedVecEnv([make_vec_env("CartPole-v1", 1) for _ in range(V)])
    with pytest.raises(ValueError, match="^n_envs must be 8 as in the checkpoint to resume, got 4"):
        load_checkpoint(tmp_path, fewer, processes=Alone())
    lean = ShardedVecEnv([make_vec_env("CartPole-v1", 2, vec_env_cls=LeanVecEnv) for _ in range(V)])
    with pytest.raises(ValueError, match="^env must be built as in the checkpoint to resume"):
        load_checkpoint(tmp_path, lean, processes=Alone())
    with pytest.raises(ValueError, match="^processes='auto' needs the environment variables that torchrun sets"):
        load_checkpoint(tmp_path, env, processes="auto")
    kind, text, *_ = outcomes(loaded, 3, tmp_path)[0]
    assert (kind, text) == ("error", "InvalidValueError: shards must be a multiple of the number of processes, which is 3, got 4")  # fmt: skip


def test_a_run_of_one_process_is_not_resumed_on_several(tmp_path):
    model = NotesPPO("MlpPolicy", cart_poles(), **SMALL | NET)
    save_checkpoint(model, tmp_path)
    with pytest.raises(
        ValueError, match="^processes must be None to resume .*, the checkpoint of a run without shards"
    ):
        load_checkpoint(tmp_path, cart_poles(), processes=Alone())


def test_a_checkpoint_without_processes_has_the_format_that_older_releases_read(tmp_path):
    path = save_checkpoint(NotesPPO("MlpPolicy", cart_poles(), **SMALL | NET), tmp_path)
    assert read_manifest(path)["version"] == 1
    document = json.loads((path / "state.json").read_text())
    assert not {"processes", "shards"} & document["configuration"].keys()
    assert not {"shards", "normalizers"} & (document.keys() | document["model"].keys())


def damage(path, shard, name):
    file = path / f"shard-0{shard}" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_shard_is_a_damaged_checkpoint_for_all(tmp_path):
    for _ in range(2):
        values(written, 2, tmp_path)
    assert [len(read_checkpoint(tmp_path).skipped), len(checkpoints_in(tmp_path))] == [0, 2]
    damage(checkpoints_in(tmp_path)[1], 3, "state.json")
    assert read_checkpoint(tmp_path).path == checkpoints_in(tmp_path)[0]
    (checkpoints_in(tmp_path)[0] / "shard-01" / "arrays.safetensors").unlink()
    with pytest.raises(CheckpointCorruptError, match="shard-03/state.json is not what was written.*shard-01/arrays"):
        read_checkpoint(tmp_path)


def without_space(group, folder, rank):
    model = NotesPPO("MlpPolicy", environments("mlp", group), processes=group, shards=V, **SMALL | NET).learn(1024)
    first = save_checkpoint(model, folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if group.rank == rank:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    message = None
    try:
        save_checkpoint(model, folder)
    except OSError as error:
        message = str(error)
    group.gather(None)
    there = os.listdir(folder)
    group.gather(None)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return first.name, message, sorted(there), save_checkpoint(model, folder).name


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_process_leaves_the_old_checkpoint_for_all(rank, tmp_path):
    for first, message, there, last in values(without_space, 2, tmp_path, rank):
        assert "File too large" in message
        assert there == [".lock", first]
        assert last.startswith("000002-step-")


def refused(group, folder):
    model = new_model("mlp", group)
    with pytest.raises(ValueError, match="^path must be a folder without another run's checkpoints"):
        model.learn(1024, ExactCheckpoint(10**6, path=folder))
    return True


def test_all_processes_are_told_of_a_folder_that_holds_another_run(tmp_path):
    save_checkpoint(NotesPPO("MlpPolicy", cart_poles(), **SMALL | NET), tmp_path)
    assert values(refused, 2, tmp_path) == [True, True]


def counted(group, folder, is_new):
    env = environments("mlp", group)
    model = new_model("mlp", group) if is_new else load_checkpoint(folder, env, processes=group)
    count = Count()
    model.learn(1024, [count, ExactCheckpoint(10**6, path=folder)], reset_num_timesteps=is_new)
    return count.total


def test_callbacks_of_each_process_remember_what_they_saw(tmp_path):
    first = values(counted, 2, tmp_path, True)
    assert values(counted, 2, tmp_path, False) == [2 * each for each in first]
    # One process has the shards of both, and the memory of the first.
    assert values(counted, 1, tmp_path, False) == [3 * first[0] + first[1]]


class NoState(gym.Wrapper):
    """Holds something that cannot be written down."""

    def __init__(self, env):
        super().__init__(env)
        self.lock = threading.Lock()


def begun_anew(group, folder, is_new):
    wrapper = NoState if group.rank == 1 else None
    env = make_vec_env("CartPole-v1", 2, wrapper_class=wrapper)
    if is_new:
        model = NotesPPO("MlpPolicy", env, processes=group, **SMALL | NET)
        with GracefulStop() as stop:
            model.learn(2048, [ExactCheckpoint(10**6, path=folder), RequestAt(stop, 800, 0, group), StopOnSignal(stop)])
        return model.num_timesteps
    model = load_checkpoint(folder, env, processes=group)
    model.learn(model.resume_report.remaining_timesteps, reset_num_timesteps=False)
    return model.resume_report.not_exact, model.num_timesteps


def test_environments_of_one_process_that_cannot_be_saved_begin_new_episodes_in_all(tmp_path):
    assert set(values(begun_anew, 2, tmp_path, True)) == {1024}
    (reasons, steps), other = values(begun_anew, 2, tmp_path, False)
    assert (reasons, steps) == other
    assert any("lock" in reason for reason in reasons)
    assert any("new episodes begin" in reason for reason in reasons)
    assert steps >= 2048


def test_a_saved_model_loads_without_processes(tmp_path):
    model = new_model("normalize", Alone()).learn(1024)
    model.save(tmp_path / "model")
    again = NotesPPO.load(tmp_path / "model", make_vec_env("CartPole-v1", 3))
    assert digest_of(again.policy) == digest_of(model.policy)
    assert (again.processes, again.shards, again._shards) == (None, None, None)
    again.learn(384)


def saved(group, folder):
    path = folder / f"rank-{group.rank}"
    new_model("mlp", group).save(path)
    return path.with_suffix(".zip").exists()


def test_the_first_process_alone_writes_a_model(tmp_path):
    assert values(saved, 2, tmp_path) == [True, False]


class Says(BaseCallback):
    def _on_step(self):
        return True


def verbosity(group, folder):
    callback = Says(verbose=1)
    new_model("mlp", group).learn(1024, [callback])
    return callback.verbose


def test_callbacks_print_in_the_first_process_alone(tmp_path):
    assert values(verbosity, 2, tmp_path) == [1, 0]


def a2c(group, folder, is_new):
    env = make_vec_env("CartPole-v1", 2)
    if is_new:
        model = NotesA2C("MlpPolicy", env, n_steps=5, seed=0, device="cpu", processes=group, **NET)
    else:
        model = load_checkpoint(folder, env, processes=group, device="cpu")
        assert type(model) is NotesA2C
    steps = 200 if is_new else model.resume_report.remaining_timesteps
    model.learn(steps if is_new else 200, ExactCheckpoint(10**6, path=folder), reset_num_timesteps=is_new)
    return digest_of(model.policy)


def a2c_straight(group):
    env = make_vec_env("CartPole-v1", 2)
    model = NotesA2C("MlpPolicy", env, n_steps=5, seed=0, device="cpu", processes=group, **NET)
    model.learn(200)
    model.learn(200, reset_num_timesteps=False)
    return digest_of(model.policy)


def test_a2c_goes_on_exactly(tmp_path):
    expected = set(values(a2c_straight, 2))
    values(a2c, 2, tmp_path, True)
    assert set(values(a2c, 2, tmp_path, False)) == expected
    assert len(expected) == 1


def test_no_warning_of_anybody(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        values(written, 2, tmp_path)
    assert th.get_num_threads() == 1
