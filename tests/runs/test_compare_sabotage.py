"""Does the comparison find what is broken, and nothing where nothing is? Real trainings on CartPole."""

import json

import numpy as np
import pytest

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.__main__ import main


class SignNoisePPO(NotesPPO):
    """PPO whose advantages have random signs: it is told the size of every surprise, and never which way."""

    def train(self):
        signs = np.random.default_rng(self.num_timesteps).choice([-1, 1], self.rollout_buffer.advantages.shape)
        self.rollout_buffer.advantages *= signs.astype(np.float32)
        super().train()


# With these nearly every seed ends at 500: an A/A check can pass only where the seeds agree.
COMMON = "n_epochs=5,batch_size=64,gae_lambda=0.9"
SOUND = f"notes:{COMMON},clip_range=0.2,learning_rate=2e-3"
NO_CLIP = f"notes:{COMMON},clip_range=lin_1000,learning_rate=2e-2"
SIGN_NOISE = f"tests.runs.test_compare_sabotage:SignNoisePPO:{COMMON},clip_range=0.2,learning_rate=2e-3"


@pytest.mark.slow
@pytest.mark.long
def test_sabotage_is_called_worse_and_the_a_a_check_passes(tmp_path, capsys):
    arguments = ["--envs", "CartPole-v1", "--arms", f"{SOUND},{NO_CLIP},{SIGN_NOISE}", "--seeds", "10", "--a-a"]
    budget = ["--total-timesteps", "28000", "--n-eval-episodes", "20"]
    assert main(["compare", *arguments, *budget, "--outdir", str(tmp_path)]) == 1
    document = json.loads((tmp_path / "comparison.json").read_text())
    verdicts = {verdict["candidate"]: verdict["verdict"] for verdict in document["verdicts"]}
    assert verdicts == {NO_CLIP: "worse", SIGN_NOISE: "worse"}
    assert document["a_a_check"]["outcome"] == "passed"
    assert "worse (preliminary)" in capsys.readouterr().out
