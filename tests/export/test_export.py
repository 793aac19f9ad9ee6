"""A file is written whole or not at all, described beside it, and the model is as before."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnvWrapper, VecFrameStack, VecNormalize

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.__main__ import main
from sb3_ppo_notes.export import export_policy
from sb3_ppo_notes.export.actor import Actor
from sb3_ppo_notes.export.check import TOLERANCE, check, difference_of
from sb3_ppo_notes.export.observations import FrameBuffer, observations_of
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence import save_checkpoint
from sb3_ppo_notes.runs.trained import trained_model
from tests import environments
from tests.export.test_matrix import CASES, WIDE, built, trained


def actor_of(model):
    observations = observations_of(model.env)
    return Actor(model.policy, observations, is_masked=model.action_masking), observations


def run_of(actor):
    """The actor itself in the place of its file."""

    def run(inputs):
        with th.no_grad():
            outputs = actor({name: th.as_tensor(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run


# -- the check --------------------------------------------------------------------------------------------------------


def checked(model, change=lambda inputs, outputs: None, n_observations=40):
    actor, observations = actor_of(model)

    def run(inputs):
        outputs = run_of(actor)(inputs)
        change(inputs, outputs)
        return outputs

    return check(model, actor, run, observations, n_observations)


def test_what_plays_alike_passes():
    differences = checked(trained(**CASES["MlpLstm masked"]))
    assert set(differences) == {"action", "value", *(f"next_state_{index}" for index in range(4))}
    assert max(differences.values()) <= TOLERANCE


@pytest.mark.parametrize("name", ["value", "action", "next_state_0", "next_state_3"])
@pytest.mark.parametrize("wrong", [2e-4, np.nan])
def test_a_difference_in_any_output_is_seen(name, wrong):
    model = trained(**CASES["betaLstm"])
    scale = 300.0 if name == "action" else 1.0  # of its bounds

    def change(inputs, outputs):
        outputs[name] = outputs[name] + np.float32(wrong * scale)

    assert not checked(model, change)[name] <= TOLERANCE


def test_a_file_that_forgets_is_seen():
    model = trained(**CASES["MlpLstm"])

    def forget(inputs, outputs):
        outputs["next_state_0"] = outputs["next_state_0"] * 0

    assert checked(model, forget)["next_state_0"] > TOLERANCE


def test_a_file_that_ignores_an_episodes_start_is_seen():
    model = trained(**CASES["MlpLstm"])
    actor, observations = actor_of(model)
    run = run_of(actor)
    first = []

    def deaf(inputs):
        first.append(0)
        return run(inputs | {"episode_start": inputs["episode_start"] & (len(first) == 1)})

    assert check(model, actor, deaf, observations, 60)["value"] > TOLERANCE


def test_which_of_two_equal_actions_is_taken_does_not_matter():
    model = built()
    with th.no_grad():
        model.policy.action_net.weight.zero_()

    def other(inputs, outputs):
        outputs["action"] = (outputs["action"] + 1) % 3

    assert checked(model, other)["action"] == 0.0
    assert checked(trained(), other)["action"] > TOLERANCE


def test_differences_are_relative_above_one_and_infinite_between_shapes():
    assert difference_of(np.array([1000.0]), np.array([1001.0])) == pytest.approx(1 / 1001)
    assert difference_of(np.array([0.0]), np.array([0.5])) == 0.5
    assert difference_of(np.array([0.0]), np.array([0.5]), 10.0) == 0.05
    assert difference_of(np.zeros(2), np.zeros((2, 1))) == np.inf


def test_a_file_that_differs_is_not_left_on_the_disk(tmp_path, monkeypatch):
    model = trained(**CASES["Mlp"])
    export_policy(model, tmp_path / "policy.pt2", n_observations=4)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Actor, "_within_bounds", lambda actor, actions: (actions + 1) % 3)
    with pytest.raises(
        InvalidValueError, match="^the file must agree with predict to 1e-05, got .* in action, by torch"
    ):
        export_policy(model, tmp_path / "policy.pt2")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# -- what is written --------------------------------------------------------------------------------------------------


def test_the_description_says_what_goes_in_and_comes_out(tmp_path):
    model = trained(**CASES["MultiInputLstm masked"])
    document = json.loads(export_policy(model, tmp_path / "policy.pt2", n_observations=4).description.read_text())
    assert [(each["name"], each["shape"], each["dtype"]) for each in document["inputs"]] == [
        ("number", ["batch"], "int64"),
        ("returns", ["batch", 2], "float32"),
        ("vector", ["batch", 3], "float32"),
        ("action_masks", ["batch", 3], "bool"),
        *((f"state_{index}", [1, "batch", 16], "float32") for index in range(4)),
        ("episode_start", ["batch"], "bool"),
    ]
    assert [(each["name"], each["shape"], each["dtype"]) for each in document["outputs"]] == [
        ("action", ["batch"], "int64"),
        ("value", ["batch"], "float32"),
        *((f"next_state_{index}", [1, "batch", 16], "float32") for index in range(4)),
    ]
    assert document["states"] == {f"state_{index}": f"next_state_{index}" for index in range(4)}
    assert document["observation_space"]["number"] == {"kind": "Discrete", "shape": [], "dtype": "int64", "n": 4}
    assert document["action_space"]["n"] == 3
    assert {"torch", "numpy", "sb3_ppo_notes"} <= document["versions"].keys()


def test_bounds_are_told_as_json_can_tell_them(tmp_path):
    space = spaces.Box(np.array([-np.inf, 0.0], np.float32), np.array([np.inf, 2.0], np.float32))
    model = built(spaces=(space, WIDE))
    text = export_policy(model, tmp_path / "policy.pt2", n_observations=4).description.read_text()
    told = json.loads(text, parse_constant=pytest.fail)["observation_space"]
    assert (told["low"], told["high"]) == (["-inf", 0.0], ["inf", 2.0])


@pytest.mark.parametrize("name", ["normalised, then stacked", "images normalised, then stacked"])
def test_frames_that_are_missing_are_told_in_raw_units(name, tmp_path):
    model = trained(**CASES[name])
    document = json.loads(export_policy(model, tmp_path / "policy.pt2", n_observations=4).description.read_text())
    frames, normalizer = document["frames"]["observation"], model.env
    while not isinstance(normalizer, VecNormalize):
        normalizer = normalizer.venv
    assert np.allclose(frames["before"], normalizer.obs_rms.mean)
    assert np.shape(frames["before"]) == normalizer.observation_space.shape
    assert document["inputs"][0]["dtype"] == "float32"


def test_frames_are_stacked_as_sb3_stacks_them():
    def make():  # each with a space, and so random numbers, of its own
        return environments.SpaceEnv(spaces.Box(-1, 1, (3,)), environments.SPACES["box"][1])

    env, twin = VecFrameStack(make_vec_env(make, 3, seed=0), 4), make_vec_env(make, 3, seed=0)
    (observation,) = observations_of(env)
    buffer, starts = FrameBuffer(observation, 3), np.ones(3, dtype=bool)
    seen, raw = env.reset(), twin.reset()
    for _ in range(20):
        assert np.array_equal(buffer.push(raw, starts), seen)
        action = np.zeros((3, 2), np.float32)
        seen, *_ = env.step(action)
        raw, _, starts, _ = twin.step(action)


# -- the model --------------------------------------------------------------------------------------------------------


def test_the_model_is_as_before_and_learns_on(tmp_path):
    model = trained(**CASES["normalised Lstm"] | dict(arguments=dict(precision="bfloat16")))
    weights = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    statistics, n_seen = model.env.obs_rms.mean.copy(), model.env.obs_rms.count
    th.manual_seed(5)
    np.random.seed(5)
    expected = th.rand(1), np.random.random()
    th.manual_seed(5)
    np.random.seed(5)
    inner = model.env.venv
    export_policy(model, tmp_path / "policy.pt2", n_observations=20)
    assert (th.rand(1), np.random.random()) == expected
    assert all(th.equal(tensor, weights[name]) for name, tensor in model.policy.state_dict().items())
    assert (model.env.obs_rms.mean == statistics).all()
    assert model.env.obs_rms.count == n_seen
    assert model.env.training
    assert model.env.venv is inner
    assert model.policy.precision == "bfloat16"
    assert model._last_obs is None
    model.learn(64, reset_num_timesteps=False)
    assert model.env.obs_rms.count > n_seen


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("policy.pt", "^to must end in .onnx or .pt2, got '.*policy.pt'$"),
        ("nowhere/policy.pt2", "^to must lie in a folder that exists"),
        ("folder.pt2", "^to must be a file, got the folder"),
    ],
)
def test_paths_that_cannot_be_are_refused(name, reason, tmp_path):
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(InvalidValueError, match=reason):
        export_policy(built(), tmp_path / name)


def test_a_package_that_is_missing_is_named_before_anything_is_done(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, missing=package: None if name == missing else object()
        )
        with pytest.raises(
            InvalidValueError, match=rf"^to must end in .pt2 where {package} is not installed.*\[export\]"
        ):
            export_policy(built(), tmp_path / "policy.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert not list(tmp_path.iterdir())


class OwnForward(ActorCriticPolicy):
    def forward(self, obs, deterministic=False):
        return super().forward(obs, deterministic)


class Doubled(VecEnvWrapper):
    def __init__(self, venv):
        super().__init__(venv, spaces.Box(-2, 2, venv.observation_space.shape))

    def reset(self):
        return 2 * self.venv.reset()

    def step_wait(self):
        observations, *rest = self.venv.step_wait()
        return 2 * observations, *rest


class Branching(BaseFeaturesExtractor):
    """Asks for a number while it computes, which cannot be traced."""

    def __init__(self, space):
        super().__init__(space, 3)

    def forward(self, observations):
        return observations * 2 if observations.sum().item() > 0 else observations


NAMES = spaces.Dict(state_0=environments.BOX)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            dict(policy=OwnForward),
            "^model must have a policy that acts by SB3's methods to be exported, got OwnForward",
        ),
        (dict(wrap=[Doubled]), "^model must have environments whose observations are changed by .*got Doubled"),
        (
            dict(wrap=[lambda env: VecFrameStack(VecFrameStack(env, 2), 2)]),
            "^model must have environments with one VecFrameStack",
        ),
        (
            dict(policy="MultiInputPolicy", spaces=(NAMES, spaces.Discrete(2))),
            "^model must have observations under names .*'state_0'",
        ),
        (
            dict(kwargs=dict(features_extractor_class=Branching)),
            "^model must have a policy that torch.export can trace",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(case, reason, tmp_path):
    with pytest.raises(InvalidValueError, match=reason):
        export_policy(built(**case), tmp_path / "policy.pt2")
    assert not list(tmp_path.iterdir())


def test_a_model_without_environments_and_no_observations_are_refused(tmp_path):
    model = built()
    with pytest.raises(InvalidValueError, match="^n_observations must be"):
        export_policy(model, tmp_path / "policy.pt2", n_observations=0)
    model.save(tmp_path / "model")
    with pytest.raises(InvalidValueError, match="^model must have environments"):
        export_policy(NotesPPO.load(tmp_path / "model"), tmp_path / "policy.pt2")


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    (folder / "small.yaml").write_text(
        "algo: ppo\nenv: CartPole-v1\nn_envs: 2\npolicy: MlpLstmPolicy\nnormalize: true\nframe_stack: 2\n"
        "hyperparameters: {n_steps: 32, batch_size: 32, n_epochs: 1, policy_kwargs: {lstm_hidden_size: 16}}\n"
    )
    options = f"--config {folder}/small.yaml --total-timesteps 128 --eval-every 64 --logdir {folder}/logs"
    assert main(["train", *options.split(), "--checkpoint-every", "64"]) == 0
    return next((folder / "logs").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["", "model.zip", "best_model.zip", "checkpoints", "checkpoints/*"])
def test_whatever_a_run_has_left_is_exported(what, run_folder, tmp_path, capsys):
    source = next(run_folder.glob(what)) if "*" in what else run_folder / what
    assert main(["export", str(source), "--to", str(tmp_path / "policy.pt2"), "--n-observations", "20"]) == 0
    document = json.loads((tmp_path / "policy.pt2.json").read_text())
    assert document["inputs"][0]["shape"] == ["batch", 8]
    assert document["frames"]["observation"]["n"] == 2
    assert "next_state_0" in capsys.readouterr().out


@pytest.mark.slow
def test_the_best_model_comes_with_its_own_statistics(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    statistics = json.loads((folder / "best_normalizer.json").read_text())
    statistics["observation"][""]["mean"] = [1.0, 2.0, 3.0, 4.0]
    (folder / "best_normalizer.json").write_text(json.dumps(statistics))
    for name, is_best in (("best_model.zip", True), ("model.zip", False), ("", False)):
        model = trained_model(folder / name)
        assert (model.env.venv.obs_rms.mean.tolist() == [1.0, 2.0, 3.0, 4.0]) == is_best
        saved = NotesPPO.load(folder / (name or "model.zip")).policy.state_dict()
        assert all(th.equal(tensor, saved[key]) for key, tensor in model.policy.state_dict().items())


@pytest.mark.slow
def test_a_run_that_is_not_finished_is_exported_as_its_newest_checkpoint(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "model.zip").unlink()
    assert main(["export", f"{tmp_path}/run", "--to", f"{tmp_path}/policy.pt2", "--n-observations", "20"]) == 0


@pytest.mark.slow
def test_a_file_from_anywhere_needs_its_environment(tmp_path, capsys):
    model = NotesPPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu")
    model.save(tmp_path / "some.zip")
    checkpoint = save_checkpoint(model.learn(64), tmp_path / "checkpoints")
    for source in (f"{tmp_path}/some.zip", f"{tmp_path}/some", str(checkpoint), f"{tmp_path}/checkpoints"):
        assert main(["export", source, "--to", f"{tmp_path}/policy.pt2"]) == 2
        assert "error: env must be the id of its environment for" in capsys.readouterr().err
        assert main(["export", source, "--to", f"{tmp_path}/policy.pt2", "--env", "CartPole-v1"]) == 0
        assert "written: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing", "--to", "policy.pt2"], "run must be a run's folder, a checkpoint or a model's file, got nothing"),
        ([".", "--to", "policy.pt2"], "run must be the folder of a run, got ., which has no config.yaml"),
        ([".", "--to", "policy.txt"], "to must end in .onnx or .pt2"),
        ([".", "--to", "policy.pt2", "--n-observations", "0"], "n_observations must be"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {reason}")


@pytest.mark.slow
def test_a_run_says_its_environment_itself(run_folder, capsys):
    assert main(["export", str(run_folder), "--to", "policy.pt2", "--env", "CartPole-v1"]) == 2
    assert capsys.readouterr().err.startswith("error: env must be left out with a run")
