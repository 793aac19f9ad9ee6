"""The library imitation takes our classes where it takes stock's, and learns the same."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesPPO


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gail_trains_ours_as_it_trains_stock(tmp_path):
    gail = pytest.importorskip("imitation.algorithms.adversarial.gail")
    from imitation.data import rollout
    from imitation.data.wrappers import RolloutInfoWrapper
    from imitation.rewards.reward_nets import BasicRewardNet
    from imitation.util import logger

    def environments():
        return make_vec_env("Pendulum-v1", 2, seed=0, wrapper_class=RolloutInfoWrapper)

    def trained(algorithm):
        env = environments()
        th.manual_seed(0)
        model = algorithm("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu")
        until = rollout.make_sample_until(min_episodes=2)
        trainer = gail.GAIL(
            demonstrations=rollout.rollout(model, environments(), until, rng=np.random.default_rng(0)),
            demo_batch_size=32,
            gen_replay_buffer_capacity=128,
            venv=env,
            gen_algo=model,
            reward_net=BasicRewardNet(env.observation_space, env.action_space),
            custom_logger=logger.configure(tmp_path, []),
        )
        trainer.train(256)
        return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])

    assert th.equal(trained(NotesPPO), trained(PPO))
