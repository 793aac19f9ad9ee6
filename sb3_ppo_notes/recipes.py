"""The seed systems, a row each: rule, hyperparameters, network, wrappers, and what it does not reproduce."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_ppo_notes.envs.make import make_env
from sb3_ppo_notes.envs.sharded_vec_env import ShardedVecEnv
from sb3_ppo_notes.envs.wrappers import StreamingNormalize, VecEpisodeEndReward, VecRewardScale
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.policies.trunk import shared_trunk
from sb3_ppo_notes.processes import join_group
from sb3_ppo_notes.rules import (
    GAE,
    AdvantageNormalization,
    ClippedSurrogate,
    EarlyStop,
    HuberValueError,
    KLPenalty,
    MonteCarlo,
    MonteCarloReturn,
    Optimization,
    OptimizerSettings,
    PolicyGradient,
    SeparateOptimizers,
    SquaredValueError,
    TDZero,
    UpdateRule,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One system's way of doing PPO or A2C.

    :param origin: the system, and the version that was read.
    :param algorithm: which class builds it.
    :param rule: its choices.
    :param hyperparameters: constructor arguments, by SB3's names; ``policy_kwargs`` is its network.
    :param n_envs: environments that it steps side by side.
    :param wrappers: applied in this order to the vectorised environments.
    :param stop_when: ``"all_succeeded"`` if training ends once the last episode of every environment was a success,
        else ``None``.
    :param differs: what it deliberately does not reproduce, and why.
    """

    origin: str
    algorithm: Literal["ppo", "a2c"] = "ppo"
    rule: UpdateRule
    hyperparameters: dict[str, Any]
    n_envs: int = 1
    wrappers: tuple[Callable[[VecEnv], VecEnv], ...] = ()
    stop_when: Literal["all_succeeded"] | None = None
    differs: tuple[str, ...] = field(default=())

    def wrap(self, env: VecEnv) -> VecEnv:
        """The environments as the system presents them to its agent.

        :param env: vectorised environments.
        :return: the same, wrapped.
        """
        if isinstance(env, ShardedVecEnv):
            return ShardedVecEnv([self.wrap(shard) for shard in env.shards])
        for wrapper in self.wrappers:
            env = wrapper(env)
        return env

    def environments(self, env: Any, n_envs: int | None, seed: int | None) -> VecEnv:
        """The environments as the recipe wants them.

        :param env: an id, one environment, or a VecEnv (whose number of environments then counts).
        :param n_envs: another number of environments than the recipe's; only with an id.
        :param seed: of the environments.
        :return: wrapped environments.
        :raises ValueError: if ``n_envs`` is given for environments that exist already.
        """
        if isinstance(env, str):
            make_env(env, verbose=0).close()
            if n_envs is not None:
                check_integer("n_envs", n_envs, minimum=1)
            return self.wrap(make_vec_env(env, n_envs=n_envs or self.n_envs, seed=seed))
        if n_envs is not None:
            raise InvalidValueError(f"n_envs must be left out when env is an environment already, got {n_envs}")
        # As SB3 does it: an environment of its own gets a Monitor, so that its episodes are counted.
        return self.wrap(OnPolicyAlgorithm._wrap_env(make_env(env, verbose=0)))

    def arguments(self, env: VecEnv, overrides: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments on some environments.

        :param env: wrapped environments.
        :param overrides: constructor arguments that take precedence; ``policy_kwargs`` are merged.
        :return: arguments by name.
        """
        arguments = {"policy": "MlpPolicy", "rule": self.rule, **self.hyperparameters} | overrides
        arguments["policy_kwargs"] = self.hyperparameters["policy_kwargs"] | (overrides.get("policy_kwargs") or {})
        if "batch_size" in self.hyperparameters and "batch_size" not in overrides:
            # The recipe's batch is a share of its own rollout: keep the share when the number of environments or steps
            # is another.
            own = self.hyperparameters["n_steps"] * self.n_envs
            n_processes, n_shards = _parts(arguments)
            size = arguments["n_steps"] * env.num_envs * n_processes
            size = size * self.hyperparameters["batch_size"] // own
            arguments["batch_size"] = max(size // n_shards, 1) * n_shards
        return arguments


def _parts(arguments: dict[str, Any]) -> tuple[int, int]:
    """Number of processes, and of shards, of the training that constructor arguments are for."""
    if arguments.get("processes") is None:
        return 1, 1
    n_processes = join_group(arguments["processes"]).size
    return n_processes, arguments.get("shards") or n_processes


def rewards_in_hundredths(env: VecEnv) -> VecEnv:
    """The environments with r / 100: a function with a name, which pickles and compares.

    :param env: vectorised environments.
    :return: the same, wrapped.
    """
    return VecRewardScale(env, scale=0.01)


# batch_size, n_steps and n_envs below multiply to what each system learns from at once. SB3's Adam has eps 1e-5 only
# where no optimizer_kwargs are given; these systems use torch's (or TensorFlow's) 1e-8.
ADAM = {"eps": 1e-8}

RECIPES: dict[str, Recipe] = {
    "skrl": Recipe(
        origin="skrl 1.4.3 (PPO_DEFAULT_CONFIG)",
        rule=UpdateRule(
            truncation="terminal",
            advantage_estimator=GAE(0.95),
            advantage_normalization=AdvantageNormalization("rollout", ddof=1, eps=1e-8),
            policy_objective=ClippedSurrogate(0.2),
            value_objective=SquaredValueError(),
            optimization=Optimization(order="sequential", drop_last=True),
        ),
        hyperparameters=dict(
            learning_rate=1e-3,
            n_steps=16,
            batch_size=64,  # two minibatches of 16 steps of 8 environments
            n_epochs=8,
            gamma=0.99,
            ent_coef=0.0,
            vf_coef=1.0,
            max_grad_norm=0.5,
            policy_kwargs=dict(optimizer_kwargs=dict(ADAM)),
        ),
        n_envs=8,
        differs=(
            "kl_threshold and KLAdaptiveLR are off by default there too; add EarlyStop(target, factor=1.0, "
            "scope='epoch') and AdaptiveLearningRate() to kl_controls to switch them on",
            "time_limit_bootstrap (off by default) adds γ·V of the state *before* the action; "
            "truncation='bootstrap' adds the right one",
            "the running scalers of observations and values (off by default) shift during the first epoch, so "
            "that the ratio is not 1 at the first minibatch; use VecNormalize",
            "its entropy of a Gaussian is the mean over dimensions, SB3's the sum; the default coefficient is 0",
            "networks are the user's there; SB3's default 64-64 tanh is used",
            "random_timesteps and learning_starts are left out: random actions have no log-probability to learn from",
        ),
    ),
    "batch_ppo": Recipe(
        origin="google-research/batch-ppo, configs.py (pendulum)",
        rule=UpdateRule(
            truncation="terminal",
            advantage_estimator=MonteCarlo(bootstrap=False),
            value_target=MonteCarloReturn(bootstrap=False, chunk=50),
            advantage_normalization=AdvantageNormalization("rollout", ddof=0, eps=1e-8),
            policy_objective=KLPenalty(
                coefficient=1.0, target=0.01, adaptation="batch_ppo", cutoff_factor=2.0, cutoff_coef=1000.0
            ),
            optimization=Optimization(drop_last=True),
        ),
        hyperparameters=dict(
            learning_rate=1e-4,
            n_steps=200,  # one whole episode of Pendulum in each of 30 environments
            batch_size=1000,  # 20 chunks of 50 steps
            n_epochs=25,
            gamma=0.995,
            ent_coef=0.0,
            vf_coef=0.5,
            max_grad_norm=None,
            policy_kwargs=dict(
                net_arch=dict(pi=[200, 100], vf=[200, 100]),
                activation_fn=nn.ReLU,
                ortho_init=False,
                log_std_init=math.log(0.7),  # .35 of actions in [-1, 1], which it stretches to Pendulum's [-2, 2]
                optimizer_kwargs=dict(ADAM),
            ),
        ),
        n_envs=30,
        wrappers=(StreamingNormalize,),
        differs=(
            "complete episodes are gathered there, whatever their length; here the rollout has a fixed number "
            "of steps, equal to the episodes' where these have one length",
            "the advantage is of the whole episode and the critic's target ends with its chunk of 50 steps, there and "
            "here: a baseline for fewer rewards than the advantage counts; MonteCarloReturn(bootstrap=False) has all",
            "a minibatch is 20 whole chunks there, and the KL and its cutoff are each chunk's, a mean over its padded "
            "length; here it is 1000 steps from anywhere, and they are the minibatch's",
            "advantages are normalised over the padding there (a defect); here there is no padding",
            "β has no floor there and can die at 0; here it stays within bounds",
            "observations and rewards are normalised when they are learned from there, with newer statistics than the "
            "observations were acted on; here as they come in",
            "ClipAction cuts actions to [-1, 1] there and RangeNormalize stretches them to Pendulum's [-2, 2]: a "
            "deviation of .35 is .70 in torque; here the policy acts in the environment's own units and starts at .70 "
            "(for other actions, log_std_init is the logarithm of .35 times half their range)",
            "the mean of the Gaussian goes through a tanh and the deviation through a softplus there; here both "
            "are SB3's",
            "biases start at 0 there, weights with Xavier's uniform, the mean's with init_output_factor 0.1 (a "
            "deviation of .032, or .063 in torque); here all start as PyTorch's layers do (the mean's with .058)",
            "TensorFlow's Adam adds epsilon before the bias correction, PyTorch's after it: in one update of Pendulum "
            "a typical weight of the policy moves by 9e-4 and ends 1e-5 from where it ends there, a few up to 1e-2",
        ),
    ),
    "spinning_up": Recipe(
        origin="OpenAI Spinning Up, algos/pytorch/ppo",
        rule=UpdateRule(
            advantage_estimator=GAE(0.97),
            value_target=MonteCarloReturn(bootstrap=True),
            advantage_normalization=AdvantageNormalization("rollout", ddof=0, eps=0.0),
            policy_objective=ClippedSurrogate(0.2),
            kl_controls=(EarlyStop(target=0.01, factor=1.5, estimator="k1", scope="policy"),),
            optimization=Optimization(
                order="sequential",
                separate=SeparateOptimizers(
                    actor=OptimizerSettings(learning_rate=3e-4, n_epochs=80),
                    critic=OptimizerSettings(learning_rate=1e-3, n_epochs=80),
                ),
            ),
        ),
        hyperparameters=dict(
            n_steps=4000,
            batch_size=4000,
            gamma=0.99,
            ent_coef=0.0,
            vf_coef=1.0,
            policy_kwargs=dict(ortho_init=False, log_std_init=-0.5, optimizer_kwargs=dict(ADAM)),
        ),
        differs=(
            "its environments are reset at the end of every epoch; here the episode goes on",
            "a true terminal state at the last step of an epoch is bootstrapped there (issue #257, a defect), and so "
            "is one at the very step of max_ep_len; here neither is",
            "only its own limit, max_ep_len = 1000 steps, is bootstrapped there, and a shorter one of gym's "
            "(CartPole-v1: 500) is a terminal state; here every time limit is bootstrapped. Once episodes reach "
            "gym's limit, an update differs by as much as it moves; with truncation='terminal' it is the same",
            "constant advantages give NaN there (no epsilon); here they raise NonFiniteError before a weight is "
            "touched",
            "MPI processes average gradients there; here several environments are stepped by one process",
        ),
    ),
    "moral_rl": Recipe(
        origin="mlpeschl/moral_rl, moral/ppo.py (the code of the French note)",
        rule=UpdateRule(
            reward_scaling="trajectory_z_score",
            truncation="terminal",
            advantage_estimator=MonteCarlo(bootstrap=False),
            value_target=MonteCarloReturn(bootstrap=False),
            computed="every_epoch",
            advantage_normalization=AdvantageNormalization("none"),
            policy_objective=ClippedSurrogate(0.1),
        ),
        hyperparameters=dict(
            learning_rate=3e-4,
            n_steps=75,  # its step limit: one whole trajectory in each of 12 workers
            batch_size=900,
            n_epochs=5,
            gamma=0.999,
            ent_coef=0.05,
            vf_coef=1.0,
            max_grad_norm=None,
            policy_kwargs=shared_trunk([64, 256], nn.ReLU) | dict(ortho_init=False, optimizer_kwargs=dict(ADAM)),
        ),
        n_envs=12,
        differs=(
            "its body is two shared convolutions over a grid; here two shared dense layers of as many units, "
            "for any observation",
            "the loss is summed over trajectories and divided by the nominal 12 there; here it is the mean over steps",
            "complete trajectories are gathered there; here a rollout of 75 steps cuts what is longer",
            "the KL check that the note's text announces is not in its code; add EarlyStop to kl_controls",
            "what its reward z-score destroys is kept, because it teaches: a constant reward becomes 0, "
            "whatever the episode's length",
        ),
    ),
    "minimal_rl": Recipe(
        origin="seungeunrho/minimalRL, ppo.py",
        rule=UpdateRule(
            truncation="bootstrap",
            advantage_estimator=GAE(0.95),
            value_target=TDZero(),
            computed="every_epoch",
            advantage_normalization=AdvantageNormalization("none"),
            policy_objective=ClippedSurrogate(0.1),
            value_objective=HuberValueError(1.0),
        ),
        hyperparameters=dict(
            learning_rate=5e-4,
            n_steps=20,
            batch_size=20,
            n_epochs=3,
            gamma=0.98,
            ent_coef=0.0,
            vf_coef=1.0,
            max_grad_norm=None,
            policy_kwargs=shared_trunk([256], nn.ReLU) | dict(ortho_init=False, optimizer_kwargs=dict(ADAM)),
        ),
        wrappers=(rewards_in_hundredths,),
        differs=(
            "its rollout ends with the episode; here it is always 20 steps, and the recursion is cut where an episode "
            "ends: worth 1.6 times the return after 40,000 steps of CartPole-v1 (1.8 times in the original's own code)",
            "it ignores `truncated` and goes on beyond the time limit (a defect); here the limit resets and is "
            "bootstrapped",
            "old probabilities are stored there and their logarithm taken, so that 0 gives −∞; here "
            "log-probabilities are",
        ),
    ),
    "tsukurinagara": Recipe(
        origin="argonism/TsukurinagaraRL, Zerokara_chap6_A2C.ipynb",
        algorithm="a2c",
        rule=UpdateRule(
            truncation="terminal",
            advantage_estimator=GAE(1.0),
            advantage_normalization=AdvantageNormalization("none"),
            policy_objective=PolicyGradient(),
        ),
        hyperparameters=dict(
            learning_rate=1e-2,
            n_steps=5,
            gamma=0.99,
            gae_lambda=1.0,
            ent_coef=0.01,
            vf_coef=0.5,
            max_grad_norm=0.5,
            use_rms_prop=False,
            policy_kwargs=shared_trunk([32, 32], nn.ReLU) | dict(ortho_init=False, optimizer_kwargs=dict(ADAM)),
        ),
        n_envs=16,
        wrappers=(VecEpisodeEndReward,),
        stop_when="all_succeeded",
        differs=(
            "its CartPole-v0 ends after 200 steps; on CartPole-v1 episodes go on to 500, success stays 196 "
            "steps or more",
            "it asks whether all succeeded after every rollout's update; here training stops at the very step, before "
            "the update of its rollout",
            "videos of its 16 environments overwrite one another (a defect); none are made here",
        ),
    ),
}


def find_recipe(name: str, algorithm: str) -> Recipe:
    """A recipe by its name.

    :param name: a key of ``RECIPES``.
    :param algorithm: ``"PPO"`` or ``"A2C"``, what the caller builds.
    :return: the recipe.
    :raises ValueError: if there is none of that name, or it is of the other algorithm.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise InvalidValueError(f"name must be one of {', '.join(RECIPES)}, got {name!r}")
    if recipe.algorithm != algorithm.lower():
        other = {"ppo": "NotesPPO", "a2c": "NotesA2C"}[recipe.algorithm]
        raise InvalidValueError(f"name must be a recipe of {algorithm}, got {name!r} (use {other}.from_recipe)")
    return recipe
