"""Tuned hyperparameters for each environment: rl_zoo3's, as plain data.

Source: rl-baselines3-zoo 2.9.2, ``hyperparams/ppo.yml``, ``a2c.yml``, ``trpo.yml`` and ``ppo_lstm.yml``, under its own
names of environments. ``"lin_…"`` falls to 0 in a line; ``n_timesteps`` is the budget it was tuned for; ``normalize``
is SB3's ``VecNormalize``. Layers, activations and optimisers are named, never evaluated.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym

RELU_256 = dict(log_std_init=-2, ortho_init=False, activation_fn="ReLU", net_arch=dict(pi=[256, 256], vf=[256, 256]))
_LSTM = dict(ortho_init=False, enable_critic_lstm=True, net_arch=dict(pi=[64], vf=[64]))
LSTM_64 = dict(_LSTM, activation_fn="ReLU", lstm_hidden_size=64)
_LUNAR = dict(n_envs=16, n_timesteps=10**6, n_steps=1024, batch_size=64, gae_lambda=0.98, gamma=0.999, n_epochs=4)
_WALKER = dict(normalize=True, n_steps=2048, batch_size=64, gae_lambda=0.95, n_epochs=10)
_MUJOCO = dict(normalize=True, n_timesteps=10**6)
_STEPS_512 = dict(_MUJOCO, n_envs=1, n_steps=512)

PPO: dict[str, dict[str, Any]] = {
    "atari": dict(policy="CnnPolicy", n_envs=8, n_steps=128, n_epochs=4, batch_size=256, n_timesteps=10**7)
    | dict(learning_rate="lin_2.5e-4", clip_range="lin_0.1", vf_coef=0.5, ent_coef=0.01),
    "CartPole-v1": dict(n_envs=8, n_timesteps=10**5, n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98)
    | dict(n_epochs=20, ent_coef=0.0, learning_rate="lin_0.001", clip_range="lin_0.2"),
    "Pendulum-v1": dict(n_envs=4, n_timesteps=10**5, n_steps=1024, gae_lambda=0.95, gamma=0.9, n_epochs=10)
    | dict(ent_coef=0.0, learning_rate=1e-3, clip_range=0.2, use_sde=True, sde_sample_freq=4),
    "Acrobot-v1": dict(normalize=True, n_envs=16, n_timesteps=10**6, n_steps=256, gae_lambda=0.94, gamma=0.99)
    | dict(n_epochs=4, ent_coef=0.0),
    "MountainCar-v0": dict(normalize=True, n_envs=16, n_timesteps=10**6, n_steps=16, gae_lambda=0.98, gamma=0.99)
    | dict(n_epochs=4, ent_coef=0.0),
    "MountainCarContinuous-v0": dict(normalize=True, n_envs=1, n_timesteps=20_000, batch_size=256, n_steps=8)
    | dict(gamma=0.9999, learning_rate=7.77e-05, ent_coef=0.00429, clip_range=0.1, n_epochs=10, gae_lambda=0.9)
    | dict(max_grad_norm=5, vf_coef=0.19, use_sde=True, policy_kwargs=dict(log_std_init=-3.29, ortho_init=False)),
    "LunarLander-v3": dict(_LUNAR, ent_coef=0.01),
    "LunarLanderContinuous-v3": dict(_LUNAR, ent_coef=0.01),
    "BipedalWalker-v3": dict(_WALKER, n_envs=32, n_timesteps=5 * 10**6, gamma=0.999)
    | dict(ent_coef=0.0, learning_rate=3e-4, clip_range=0.18),
    "BipedalWalkerHardcore-v3": dict(_WALKER, n_envs=16, n_timesteps=10**8, gamma=0.99)
    | dict(ent_coef=0.001, learning_rate="lin_2.5e-4", clip_range="lin_0.2"),
    "HalfCheetah-v4": dict(_STEPS_512, batch_size=64, gamma=0.98, learning_rate=2.0633e-05, ent_coef=0.000401762)
    | dict(clip_range=0.1, n_epochs=20, gae_lambda=0.92, max_grad_norm=0.8, vf_coef=0.58096, policy_kwargs=RELU_256),
    "Hopper-v4": dict(_STEPS_512, batch_size=32, gamma=0.999, learning_rate=9.80828e-05, ent_coef=0.00229519)
    | dict(clip_range=0.2, n_epochs=5, gae_lambda=0.99, max_grad_norm=0.7, vf_coef=0.835671, policy_kwargs=RELU_256),
    "Walker2d-v4": dict(_STEPS_512, batch_size=32, gamma=0.99, learning_rate=5.05041e-05, ent_coef=0.000585045)
    | dict(clip_range=0.1, n_epochs=20, gae_lambda=0.95, max_grad_norm=1, vf_coef=0.871923),
    "Humanoid-v4": dict(_STEPS_512, batch_size=256, gamma=0.95, learning_rate=3.56987e-05, ent_coef=0.00238306)
    | dict(clip_range=0.3, n_epochs=5, gae_lambda=0.9, max_grad_norm=2, vf_coef=0.431892, policy_kwargs=RELU_256)
    | dict(n_timesteps=10**7),
    "Reacher-v2": dict(_STEPS_512, batch_size=32, gamma=0.9, learning_rate=0.000104019, ent_coef=7.52585e-08)
    | dict(clip_range=0.3, n_epochs=5, gae_lambda=1.0, max_grad_norm=0.9, vf_coef=0.950368),
    "InvertedPendulum-v2": dict(_MUJOCO, n_envs=1, batch_size=64, n_steps=32, gamma=0.999, learning_rate=0.000222425)
    | dict(ent_coef=1.37976e-07, clip_range=0.4, n_epochs=5, gae_lambda=0.9, max_grad_norm=0.3, vf_coef=0.19816),
    "InvertedDoublePendulum-v2": dict(_MUJOCO, n_envs=1, batch_size=512, n_steps=128, gamma=0.98)
    | dict(learning_rate=0.000155454, ent_coef=1.05057e-06, clip_range=0.4, n_epochs=10, gae_lambda=0.8)
    | dict(max_grad_norm=0.5, vf_coef=0.695929),
    "Ant-v4": _MUJOCO,
    "Swimmer-v4": dict(_MUJOCO, gamma=0.9999, n_envs=4, n_steps=1024, batch_size=256, learning_rate=6e-4)
    | dict(gae_lambda=0.98),
}

_A2C_SDE = dict(normalize=True, ent_coef=0.0, max_grad_norm=0.5, n_steps=8, gae_lambda=0.9, vf_coef=0.4) | dict(
    use_rms_prop=True,
    normalize_advantage=False,
    use_sde=True,
    policy_kwargs=dict(log_std_init=-2, ortho_init=False),
)
A2C: dict[str, dict[str, Any]] = {
    "atari": dict(policy="CnnPolicy", n_envs=16, n_timesteps=10**7, ent_coef=0.01, vf_coef=0.25)
    | dict(policy_kwargs=dict(optimizer_class="RMSpropTFLike", optimizer_kwargs=dict(eps=1e-5))),
    "CartPole-v1": dict(n_envs=8, n_timesteps=5 * 10**5, ent_coef=0.0),
    "Pendulum-v1": dict(_A2C_SDE, n_envs=8, n_timesteps=10**6, gamma=0.9, learning_rate="lin_7e-4"),
    "Acrobot-v1": dict(normalize=True, n_envs=16, n_timesteps=5 * 10**5, ent_coef=0.0),
    "MountainCar-v0": dict(normalize=True, n_envs=16, n_timesteps=10**6, ent_coef=0.0),
    "MountainCarContinuous-v0": dict(normalize=True, n_envs=4, n_steps=100, n_timesteps=10**5, ent_coef=0.0)
    | dict(use_sde=True, sde_sample_freq=16, policy_kwargs=dict(log_std_init=0.0, ortho_init=False)),
    "LunarLander-v3": dict(n_envs=8, n_timesteps=2 * 10**5, gamma=0.995, n_steps=5, learning_rate="lin_0.00083")
    | dict(ent_coef=1e-5),
    "LunarLanderContinuous-v3": dict(_A2C_SDE, n_envs=4, n_timesteps=5 * 10**6, gamma=0.99, learning_rate="lin_7e-4"),
    "BipedalWalker-v3": dict(_A2C_SDE, n_envs=16, n_timesteps=5 * 10**6, gamma=0.99, learning_rate="lin_0.00096"),
    "BipedalWalkerHardcore-v3": dict(_A2C_SDE, n_envs=32, n_timesteps=2 * 10**8, gamma=0.99)
    | dict(ent_coef=0.001, learning_rate="lin_0.0008"),
    **dict.fromkeys(("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4"), _MUJOCO),
    "Swimmer-v4": dict(_MUJOCO, gamma=0.9999),
    "Humanoid-v4": dict(_MUJOCO, n_timesteps=2 * 10**6),
}

_TRPO_MUJOCO = dict(normalize=True, n_envs=2, n_timesteps=10**6, batch_size=128, n_steps=1024, gamma=0.99) | dict(
    gae_lambda=0.95, sub_sampling_factor=1, cg_max_steps=25, cg_damping=0.1, n_critic_updates=20, learning_rate=1e-3
)
TRPO: dict[str, dict[str, Any]] = {
    "CartPole-v1": dict(n_envs=2, n_timesteps=10**5, n_steps=512, batch_size=512, cg_damping=1e-3, gae_lambda=0.98)
    | dict(gamma=0.99, learning_rate=1e-3, n_critic_updates=20),
    "Pendulum-v1": dict(n_envs=2, n_timesteps=10**5, n_steps=1024, gamma=0.9, n_critic_updates=15)
    | dict(use_sde=True, sde_sample_freq=4),
    "Acrobot-v1": dict(normalize=True, n_envs=2, n_timesteps=10**5, n_steps=1024),
    "MountainCar-v0": dict(normalize=True, n_envs=2, n_timesteps=10**5, n_steps=1024, n_critic_updates=20),
    "MountainCarContinuous-v0": dict(normalize=True, n_envs=2, n_timesteps=50_000, use_sde=True, sde_sample_freq=4),
    "LunarLander-v3": dict(n_envs=2, n_timesteps=2 * 10**5, n_steps=512, cg_damping=0.01, gae_lambda=0.98, gamma=0.99)
    | dict(learning_rate=1e-3, n_critic_updates=15),
    "LunarLanderContinuous-v3": dict(normalize=True, n_envs=2, n_timesteps=10**5, n_steps=1024, n_critic_updates=20),
    "BipedalWalker-v3": _TRPO_MUJOCO,
    "BipedalWalkerHardcore-v3": dict(_TRPO_MUJOCO, n_timesteps=10**7),
    **dict.fromkeys(("Hopper-v4", "Walker2d-v4", "Ant-v4"), _TRPO_MUJOCO),
    "HalfCheetah-v4": dict(_TRPO_MUJOCO, target_kl=0.04),
    "Swimmer-v4": dict(_TRPO_MUJOCO, gamma=0.9999),
    "Humanoid-v4": dict(_TRPO_MUJOCO, n_timesteps=2 * 10**6),
}

_LUNAR_LSTM = dict(normalize=True, n_envs=32, n_timesteps=5 * 10**6, n_steps=512, batch_size=128) | dict(
    gae_lambda=0.98, gamma=0.999, n_epochs=4, ent_coef=0.01, policy_kwargs=LSTM_64
)
PPO_LSTM: dict[str, dict[str, Any]] = {
    "atari": dict(PPO["atari"], policy="CnnLstmPolicy", atari=dict(terminal_on_life_loss=False))
    | dict(policy_kwargs=dict(enable_critic_lstm=False, lstm_hidden_size=128)),
    "CartPoleNoVel-v1": dict(PPO["CartPole-v1"], normalize=True, policy_kwargs=LSTM_64),
    "PendulumNoVel-v1": dict(PPO["Pendulum-v1"], normalize=True, policy_kwargs=LSTM_64),
    "Acrobot-v1": PPO["Acrobot-v1"],
    "MountainCarNoVel-v0": PPO["MountainCar-v0"],
    "MountainCarContinuousNoVel-v0": dict(PPO["MountainCarContinuous-v0"], n_envs=8, n_timesteps=3 * 10**5)
    | dict(n_steps=1024, sde_sample_freq=8)
    | dict(policy_kwargs=dict(_LSTM, log_std_init=0.0, lstm_hidden_size=32)),
    "LunarLanderNoVel-v2": _LUNAR_LSTM,
    "LunarLanderContinuousNoVel-v2": _LUNAR_LSTM,
    "BipedalWalker-v3": dict(PPO["BipedalWalker-v3"], n_steps=256, batch_size=256, policy_kwargs=LSTM_64),
    "BipedalWalkerHardcore-v3": dict(PPO["BipedalWalkerHardcore-v3"], n_envs=32, n_steps=256, batch_size=256)
    | dict(gamma=0.999, learning_rate="lin_3e-4", policy_kwargs=LSTM_64),
    **{
        name: PPO[name]
        for name in ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Humanoid-v4", "Ant-v4", "Swimmer-v4")
    },
}

ZOO = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "ppo_lstm": PPO_LSTM}
#: Names of the same tasks in the zoo: its MuJoCo entries are of older versions, its LSTMs' of tasks without velocities.
ZOO_NAMES: dict[str, tuple[str, ...]] = {
    **{f"{name}-v5": (f"{name}-v4",) for name in ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Swimmer", "Humanoid")},
    **{f"{name}-v5": (f"{name}-v2",) for name in ("Reacher", "InvertedPendulum", "InvertedDoublePendulum")},
    **{f"{name}-v1": (f"{name}NoVel-v1",) for name in ("CartPole", "Pendulum")},
    **{f"{name}-v0": (f"{name}NoVel-v0",) for name in ("MountainCar", "MountainCarContinuous")},
    **{f"{name}-v3": (f"{name}NoVel-v2",) for name in ("LunarLander", "LunarLanderContinuous")},
}
#: Budget of an environment the zoo does not know; its own default of 10⁶ is a night's work.
DEFAULT_TIMESTEPS = 100_000
#: The scale of each task: the mean return of a random policy (30 to 2,000 episodes in Gymnasium 1.4.0, measured for
#: this table), and what stock PPO reaches with the values above (rl-baselines3-zoo, ``benchmark.md``: one run each,
#: partly of the task's older version). A scale only has to be the same for all arms and fixed beforehand.
SCALES: dict[str, tuple[float, float | None]] = {
    "CartPole-v1": (22.1, 500.0),
    "Pendulum-v1": (-1230.7, -172.2),
    "Acrobot-v1": (-498.1, -73.5),
    "MountainCar-v0": (-200.0, -110.4),
    "MountainCarContinuous-v0": (-33.3, 88.3),
    "LunarLander-v3": (-181.7, 242.1),
    "LunarLanderContinuous-v3": (-210.3, 270.9),
    "BipedalWalker-v3": (-102.8, 213.3),
    "HalfCheetah-v5": (-282.5, 5819.1),
    "Hopper-v5": (17.6, 2410.4),
    "Walker2d-v5": (1.8, 3478.8),
    "Ant-v5": (-50.8, 1327.2),
    "Swimmer-v5": (0.8, 281.6),
    "Humanoid-v5": (113.1, None),
    "Reacher-v5": (-42.8, None),
    "InvertedPendulum-v5": (5.1, None),
    "InvertedDoublePendulum-v5": (47.4, None),
    "PongNoFrameskip-v4": (-20.4, 21.0),
    "ALE/Pong-v5": (-20.4, 21.0),
}


@dataclass(frozen=True)
class Scale:
    """Meaning of 0 and 1 on a task.

    :param random: mean return of a random policy, ``None`` if it has to be measured; reward units.
    :param reference: the return that counts as 1, ``None`` for that of the best arm; reward units.
    :param source: where the reference is from.
    """

    random: float | None
    reference: float | None
    source: str


def is_atari(env: str) -> bool:
    """True for an environment that needs the wrappers of Atari.

    :param env: id of an environment, with or without a module to import before its colon.
    :return: whether its name is one of the Arcade Learning Environment's.

    >>> is_atari("PongNoFrameskip-v4"), is_atari("ale_py:ALE/Pong-v5"), is_atari("Pendulum-v1")
    (True, True, False)
    """
    name = env.rpartition(":")[2]
    return name.startswith("ALE/") or "NoFrameskip-v" in name


def zoo_entry(family: str, env: str) -> tuple[str, dict[str, Any]] | None:
    """The zoo's values.

    :param family: a key of ``ZOO``.
    :param env: id of an environment.
    :return: the zoo's name of it and its values, ``None`` if it has none.

    >>> zoo_entry("a2c", "CartPole-v1")
    ('CartPole-v1', {'n_envs': 8, 'n_timesteps': 500000, 'ent_coef': 0.0})
    """
    names = (env, *ZOO_NAMES.get(env, ()), *(("atari",) if is_atari(env) else ()))
    return next(((name, dict(ZOO[family][name])) for name in names if name in ZOO[family]), None)


def budget(family: str, env: str) -> int:
    """Length of the zoo's training.

    :param family: a key of ``ZOO``.
    :param env: id of an environment.
    :return: environment steps.

    >>> budget("ppo", "Pendulum-v1"), budget("ppo", "FrozenLake-v1")
    (100000, 100000)
    """
    entry = zoo_entry(family, env)
    return DEFAULT_TIMESTEPS if entry is None else int(entry[1]["n_timesteps"])


def scale(env: str) -> Scale:
    """Meaning of 0 and 1 on a task, as far as it is known before anything is run.

    :param env: id of a registered environment.
    :return: the scale. Without a published result the threshold counts at which the environment is called solved.
    """
    random, reference = SCALES.get(env, (None, None))
    if reference is not None:
        return Scale(random, reference, "rl-baselines3-zoo's benchmark of PPO")
    specification = gym.registry.get(env.rpartition(":")[2])
    threshold = getattr(specification, "reward_threshold", None)
    if threshold is not None and (random is None or threshold > random):
        return Scale(random, float(threshold), "the environment's own threshold of success")
    return Scale(random, None, "the best arm's mean")
