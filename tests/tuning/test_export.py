"""best.yml: what was tuned is what rl_zoo3's own loader, and ours, build from it."""

import importlib.util

import pytest
import yaml
from torch import nn

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.configs.rules import rule_from_data
from sb3_ppo_notes.configs.run_config import resolve_config
from tests.tuning.records import record
from tuning.report.data import TrialRecord
from tuning.report.export import best_entry, best_yaml, write_best
from tuning.report.numbers import best_trial
from tuning.space.rules import rule_choices
from tuning.space.setup import baseline_setup, make_setup
from tuning.space.warm_starts import parse_entry

REASON = "rl_zoo3 with its loader is not installed"


def with_winner(study, **changes):
    """The same study with other values in the winner's configuration."""
    trials = [
        TrialRecord(**{**vars(trial), "configuration": trial.configuration | changes})
        if trial.number == study.winner
        else trial
        for trial in study.trials
    ]
    return type(study)(**{**vars(study), "trials": tuple(trials)})


def test_the_file_is_the_winner_under_the_environments_id(tmp_path):
    study = record()
    path = write_best(study, tmp_path / "new")
    assert path.name == "best.yml"
    content = yaml.safe_load(path.read_text())
    assert list(content) == ["CartPole-v1"]
    entry, winner = content["CartPole-v1"], study.trials[study.winner].configuration
    assert entry["n_steps"] == 2 ** winner["n_steps_pow"]
    assert entry["gamma"] == pytest.approx(1 - winner["one_minus_gamma"])
    assert (entry["n_envs"], entry["n_timesteps"]) == (8, 50_000.0)
    assert None not in entry.values()
    assert [file.name for file in path.parent.iterdir()] == ["best.yml"]


def test_what_is_none_is_left_out_for_rl_zoo3_refuses_some_of_it():
    assert "target_kl" not in best_entry(with_winner(record(), target_kl=None))


@pytest.mark.parametrize("algo", ["notes_ppo", "notes_a2c"])
def test_what_is_exported_trains_what_was_tuned(algo):
    base = {"n_envs": 6, "normalize": {"norm_obs": True}, "policy_kwargs": {"log_std_init": -1.5, "ortho_init": False}}
    study = record(algo=algo, base=base)
    tuned = make_setup("x", algo, best_trial(study).configuration, base)
    entry = parse_entry(yaml.safe_load(best_yaml(study))["CartPole-v1"])
    exported = baseline_setup("x", algo, entry)
    assert exported.arguments == {name: value for name, value in tuned.arguments.items() if value is not None}
    assert (exported.normalize, exported.n_envs) == (tuned.normalize, 6)


@pytest.mark.parametrize("optimizer", ["RMSpropTFLike", "Adam"])
def test_an_optimizer_is_written_as_both_loaders_read_it(optimizer):
    """rl_zoo3 knows torch as th, and SB3's RMSpropTFLike by its name alone."""
    kwargs = {"optimizer_class": optimizer, "log_std_init": -2}
    text = yaml.safe_load(best_yaml(record(base={"policy_kwargs": kwargs})))["CartPole-v1"]["policy_kwargs"]
    assert f"optimizer_class={'th.optim.' if optimizer == 'Adam' else ''}{optimizer}," in text
    assert parse_entry({"policy_kwargs": text})["policy_kwargs"].items() >= kwargs.items()


def test_the_comments_say_what_is_to_be_expected():
    assert "test score 463.2 over 10 seeds that nobody tuned on" in best_yaml(record())
    assert "not tested yet" in best_yaml(record(tested=False))
    assert "the finalists have not run" in best_yaml(record(finalists=False))


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_the_command_in_the_comments_is_one_that_train_reads_the_file_with(tmp_path, algo):
    path = write_best(record(algo=f"notes_{algo}"), tmp_path)
    (command,) = [line for line in path.read_text().splitlines() if line.startswith("# train with: ")]
    options = command.rpartition(" train ")[2].split()
    asked = dict(zip(options[::2], options[1::2], strict=True))
    config, _ = resolve_config(str(path), {"algo": asked["--algo"], "env": asked["--env"]})
    assert (asked["--config"], config.algo, config.env, config.n_envs) == (path.name, algo, "CartPole-v1", 8)


def test_before_the_finalists_the_best_of_the_search_that_did_not_diverge_is_exported():
    study = record(finalists=False)
    scores = {trial.number: trial.score for trial in study.trials if trial.state == "complete" and not trial.reason}
    assert best_trial(study).number == max(scores, key=scores.get)
    wild = [
        TrialRecord(**{**vars(trial), "score": 1e9}) if trial.reason == "diverged" else trial for trial in study.trials
    ]
    assert best_trial(record(finalists=False, trials=tuple(wild))).number == best_trial(study).number


def test_flaw_10_trial_0_is_a_trial():
    study = record(finalists=False)
    only = tuple(trial for trial in study.trials if trial.number == 0)
    assert best_trial(record(finalists=False, trials=only)).number == 0
    assert best_trial(record(tested=False, winner=0)).number == 0
    assert "trial 0 of study" in best_yaml(record(tested=False, winner=0))


@pytest.mark.parametrize(
    ("keep", "counted"),
    [
        (lambda trial: trial.state != "complete", "13 pruned, 1 failed"),
        (lambda trial: trial.reason == "diverged", "1 diverged"),
        (lambda trial: False, "no trials at all"),
    ],
)
def test_flaw_9_nothing_completed_is_said_in_one_line_and_nothing_is_written(tmp_path, keep, counted):
    study = record(finalists=False, tested=False)
    study = record(finalists=False, tested=False, trials=tuple(filter(keep, study.trials)))
    with pytest.raises(ValueError, match=r"^study 'cartpole' has no completed trial \(.*\) - see report.md$") as error:
        write_best(study, tmp_path / "out")
    assert all(part in str(error.value) for part in counted.split(", "))
    assert not (tmp_path / "out").exists()


def test_no_password_is_exported():
    study = record(name="postgresql://me:secret@host/x")
    assert "secret" not in best_yaml(study)


def test_a_rule_is_exported_by_the_names_of_its_classes_and_stock_refuses_it():
    study = with_winner(
        record(vary=["rule.value_objective"]), **{"rule.value_objective": "huber", "clip_range": "lin_0.4"}
    )
    entry = best_entry(study)
    assert entry["rule"]["value_objective"] == {"HuberValueError": {"beta": 1.0}}
    assert entry["rule"]["policy_objective"] == {"ClippedSurrogate": {"clip_range": "lin_0.4"}}
    assert not {"clip_range", "target_kl", "gae_lambda"} & set(entry)
    assert "rl_zoo3, refuses it" in best_yaml(study)
    assert "rl_zoo3.train" not in best_yaml(study)
    stock = with_winner(study, **{"rule.value_objective": "stock"})
    assert "rule" not in best_entry(stock)
    assert "rl_zoo3.train" in best_yaml(stock)


@pytest.mark.parametrize(("algo", "slots"), [(algo, tuple(rule_choices(algo))) for algo in ("notes_ppo", "notes_a2c")])
def test_every_choice_of_a_rule_comes_back_from_the_file(algo, slots):
    study = record(algo=algo, vary=[f"rule.{slot}" for slot in slots])
    for slot in slots:
        for choice in rule_choices(algo)[slot]:
            changed = with_winner(study, **{f"rule.{other}": "stock" for other in slots} | {f"rule.{slot}": choice})
            tuned = make_setup("x", algo, best_trial(changed).configuration, changed.base).arguments
            exported = baseline_setup("x", algo, parse_entry(yaml.safe_load(best_yaml(changed))["CartPole-v1"]))
            # Schedules compare by identity; what they are is in the words.
            wanted, found = (str(one.get("rule")).split(" object at ")[0] for one in (tuned, exported.arguments))
            assert wanted == found


def test_a_rule_that_cannot_be_is_refused():
    for words in (
        {"bogus": 1},
        {"value_objective": {"system": {}}},
        {"value_objective": {"HuberValueError": {"beta": -1}}},
    ):
        with pytest.raises(ValueError, match="^rule must map slots to choices of sb3_ppo_notes.rules"):
            rule_from_data(words)


@pytest.fixture
def manager(tmp_path):
    pytest.importorskip("huggingface_sb3", reason=REASON)
    module = pytest.importorskip("rl_zoo3.exp_manager", reason=REASON)

    def make(path, algo="ppo", **options):
        return module.ExperimentManager(
            args=None,
            algo=algo,
            env_id="CartPole-v1",
            log_folder=str(tmp_path / "logs"),
            config=str(path),
            n_timesteps=-1,
            **options,
        )

    return make


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason=REASON)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algo", ["notes_ppo", "notes_a2c"])
def test_flaw_14_rl_zoo3s_own_loader_builds_the_winner(tmp_path, manager, algo):
    from stable_baselines3 import A2C, PPO

    study = record(algo=algo, base={"n_envs": 4, "normalize": True, "policy_kwargs": {"ortho_init": False}})
    path = write_best(study, tmp_path)
    loader = manager(path, algo.removeprefix("notes_"))
    hyperparameters, _, _, _ = loader._preprocess_hyperparams(loader.read_hyperparameters()[0])
    tuned = make_setup("x", algo, best_trial(study).configuration, study.base)
    assert (loader.n_envs, loader.n_timesteps) == (4, 50_000)
    assert loader.normalize_kwargs["gamma"] == tuned.normalize["gamma"] == hyperparameters["gamma"]
    stock = {"notes_ppo": PPO, "notes_a2c": A2C}[algo](env="CartPole-v1", **hyperparameters)
    arguments = dict(tuned.arguments)
    assert stock.policy_kwargs["activation_fn"] is arguments["policy_kwargs"]["activation_fn"]
    assert stock.policy_kwargs["net_arch"] == arguments["policy_kwargs"]["net_arch"]
    assert stock.policy_kwargs["ortho_init"] is False
    for name in (
        "n_steps",
        "batch_size",
        "n_epochs",
        "gamma",
        "gae_lambda",
        "ent_coef",
        "vf_coef",
        "max_grad_norm",
        "target_kl",
    ):
        if name in arguments:
            assert getattr(stock, name) == arguments[name], name
    if algo == "notes_ppo":
        ours = NotesPPO(env="CartPole-v1", **arguments)
        for progress in (1.0, 0.25):
            assert stock.clip_range(progress) == pytest.approx(ours.clip_range(progress))
            assert stock.lr_schedule(progress) == pytest.approx(ours.lr_schedule(progress))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason=REASON)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algo", ["notes_ppo", "notes_a2c"])
def test_rl_zoo3_understands_trials_of_ours(tmp_path, manager, algo):
    """What is fixed is not among a trial's parameters: without the schedule, every name left is rl_zoo3's or SB3's."""
    import optuna
    from stable_baselines3 import A2C, PPO

    from tuning.space import Space

    space_file = tmp_path / "space.yml"
    space_file.write_text("lr_schedule: constant\n")
    space = Space.from_yaml(space_file, algo)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    study = optuna.create_study(storage=storage, study_name="ours", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: space.sample(trial)["vf_coef"], n_trials=2)
    config = tmp_path / "base.yml"
    config.write_text("CartPole-v1: {n_timesteps: 1000.0, policy: MlpPolicy, n_envs: 8}\n")
    stored = dict(storage=str(tmp_path / "study.log"), study_name="ours", trial_id=1)
    loader = manager(config, algo.removeprefix("notes_"), **stored)
    hyperparameters, _, _, _ = loader._preprocess_hyperparams(loader.read_hyperparameters()[0])
    model = {"notes_ppo": PPO, "notes_a2c": A2C}[algo](env="CartPole-v1", **hyperparameters)
    assert model.gamma == 1 - study.trials[1].params["one_minus_gamma"]
    assert model.policy_kwargs["activation_fn"] in (nn.Tanh, nn.ReLU)
