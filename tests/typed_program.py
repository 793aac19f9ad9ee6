"""A user's program with every annotation in its place: ``mypy --strict`` has nothing to say about it, and it runs."""

from pathlib import Path

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.callbacks import EntropyCallback, Evaluator, KLCallback, Phase, PhasesCallback, StopWhenSolved
from sb3_ppo_notes.persistence import ExactCheckpoint, GracefulStop, StopOnSignal, load_checkpoint, load_safe
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rollouts import LeanVecEnv, make_gymnasium_vec
from sb3_ppo_notes.rules import ClippedSurrogate, EarlyStop, PolicyTerms, UpdateRule


class Epochs(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.kls: list[float] = []

    def on_epoch(self, report: UpdateReport) -> None:
        self.kls.append(float(report.approx_kl))

    def _on_step(self) -> bool:
        return True


class Unclipped:
    def objective(self, terms: PolicyTerms) -> th.Tensor:
        return th.exp(terms.log_probs - terms.old_log_probs) * terms.advantages


def clip_range(progress_remaining: float) -> float:
    return 0.1 + 0.1 * progress_remaining


def arguments(folder: Path) -> NotesPPO:
    model = NotesPPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=2, vec_env_cls=LeanVecEnv),
        learning_rate="lin_3e-4",
        n_steps=64,
        clip_range=clip_range,
        ent_coef="lin_0.01",
        policy_kwargs={"net_arch": [32, 32]},
        seed=0,
    )
    model = model.learn(256)
    model.save(folder / "model")
    return model


def rules() -> bool:
    rule = UpdateRule(kl_controls=(EarlyStop(target=0.01, factor=1.0, estimator="k1"),))
    trained: NotesPPO = NotesPPO("MlpPolicy", make_gymnasium_vec("CartPole-v1", 2), rule=rule, n_steps=64).learn(128)
    NotesPPO("MlpPolicy", "CartPole-v1", rule=UpdateRule(policy_objective=Unclipped()), n_steps=64).learn(64)
    recipe: NotesA2C = NotesA2C.from_recipe("tsukurinagara", "CartPole-v1", n_envs=2, learning_rate=7e-3)
    print(recipe.rule, UpdateRule().diff(RECIPES["skrl"].rule))
    return trained.rule == rule and isinstance(trained.rule.policy_objective, ClippedSurrogate)


def callbacks(folder: Path) -> list[float]:
    epochs = Epochs()
    with GracefulStop() as stop:
        watching = [KLCallback(kl_max=0.05), EntropyCallback()]
        model = NotesPPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=0).learn(128, callback=watching)
        phases = PhasesCallback([Phase("train", 64, is_training=True), Phase("eval", 20)], "CartPole-v1")
        model.learn(128, [phases, StopOnSignal(stop), ExactCheckpoint(every=64, keep=1, path=str(folder / "run"))])
        model.learn(64, callback=epochs)
        model.learn(64, callback=StopWhenSolved(env="CartPole-v1", n_episodes=2, every=64))
    print(Evaluator("CartPole-v1", model.env, seed=1, n_episodes=2).evaluate(model).mean_return)
    return epochs.kls


def files(folder: Path) -> int:
    stranger = load_safe(folder / "model", "CartPole-v1", clip_range=clip_range)
    action, _ = stranger.predict(stranger.env.reset(), deterministic=True)
    loaded: NotesPPO = NotesPPO.load(folder / "model")
    resumed: NotesPPO = load_checkpoint(folder / "run", "CartPole-v1", algorithm=NotesPPO)
    resumed.learn(64, reset_num_timesteps=False)
    either = load_checkpoint(folder / "run", make_vec_env("CartPole-v1"))
    print(action.shape, loaded.n_epochs, resumed.resume_report, either.engine.report())
    return resumed.num_timesteps


def main(folder: Path) -> None:
    model = arguments(folder)
    print(model.num_timesteps, rules(), callbacks(folder), files(folder))


if __name__ == "__main__":
    main(Path("typed_program"))
