"""The plan of a comparison: its runs in their order, and all that is refused before it begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sb3_ppo_notes.configs.build import check_environment
from sb3_ppo_notes.configs.tuned import Scale, budget, scale
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.runs.compare.arms import Arm, family_of, parse_arms
from sb3_ppo_notes.runs.compare.models import Settings, check_buildable
from sb3_ppo_notes.runs.compare.run import RANDOM, Run

#: Episodes by which a random policy is measured where no scale is known.
RANDOM_EPISODES = 100


@dataclass(frozen=True)
class Plan:
    """A comparison that can begin.

    :param arms: the baseline first.
    :param seeds: by which all arms are judged.
    :param other_seeds: of the baseline, for the A/A check; empty for none.
    :param budgets: environment steps of a run, by task.
    :param settings: by arm and task.
    :param scales: by task, as far as they are known.
    :param environment: ``imports``, ``env_kwargs`` and ``env_wrapper``, of all tasks.
    """

    arms: Sequence[Arm]
    envs: Sequence[str]
    seeds: Sequence[int]
    other_seeds: Sequence[int]
    budgets: Mapping[str, int]
    n_eval_episodes: int
    settings: Mapping[tuple[str, str], Settings]
    scales: Mapping[str, Scale]
    environment: Mapping[str, Any] = field(default_factory=dict)

    def runs(self) -> list[Run]:
        """All runs in their order: seed by seed and task by task.

        So an interrupted comparison has equally many runs of each arm. The first to begin changes from seed to seed: a
        machine that warms up or slows down favours nobody.
        """
        runs = [self._random_policy(env) for env in self.envs if self.scales[env].random is None]
        for seed in self.seeds:
            first = seed % len(self.arms)
            order = [*self.arms[first:], *self.arms[:first]]
            runs += [self._run(arm, env, seed) for env in self.envs for arm in order]
        return runs + [self._run(self.arms[0], env, seed) for seed in self.other_seeds for env in self.envs]

    def _run(self, arm: Arm, env: str, seed: int) -> Run:
        return Run(arm, env, seed, self.budgets[env], self.n_eval_episodes, self.settings[(arm.name, env)])

    def _random_policy(self, env: str) -> Run:
        atari = self.settings[(self.arms[0].name, env)].atari
        settings = Settings(RANDOM, 1, RANDOM, {}, atari=atari, environment=dict(self.environment))
        return Run(None, env, 0, 0, RANDOM_EPISODES, settings)


def make_plan(
    arms: str,
    envs: str,
    algo: str,
    *,
    seeds: int,
    a_a: bool,
    total_timesteps: int | None,
    n_envs: int | None,
    n_eval_episodes: int,
    environment: Mapping[str, Any] = MappingProxyType({}),
) -> Plan:
    """Make a plan, for which every arm has been built once on every task.

    :raises ValueError: for an unknown environment, arm or option, or an arm that cannot be trained on a task.
    """
    names = [name.strip() for name in envs.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise InvalidValueError(f"envs must be ids of environments separated by commas, each once, got {envs!r}")
    for name in names:
        check_environment(name, **environment)
    parsed = parse_arms(arms, algo)
    if n_envs is not None:
        parsed = [Arm(arm.name, arm.target, {"n_envs": n_envs} | arm.overrides) for arm in parsed]
    settings = {(arm.name, env): check_buildable(arm, env, environment) for arm in parsed for env in names}
    family = family_of(parsed[0]) or "ppo"
    return Plan(
        arms=parsed,
        envs=names,
        seeds=range(seeds),
        other_seeds=range(seeds, 2 * seeds) if a_a else (),
        budgets={env: total_timesteps or budget(family, env) for env in names},
        n_eval_episodes=n_eval_episodes,
        settings=settings,
        scales={env: _scale(env, environment) for env in names},
        environment=environment,
    )


def _scale(env: str, environment: Mapping[str, Any]) -> Scale:
    # Whoever changes a task changes what its published returns mean.
    return scale(env) if {*environment} <= {"imports"} else Scale(None, None, "the best arm's mean")
