"""``python -m tests.persistence.golden``: a checkpoint of this release, to be committed and loaded in CI for ever. Once a release, never again."""

import json
from pathlib import Path

import numpy as np
import torch as th

from sb3_ppo_notes import NotesPPO, __version__
from sb3_ppo_notes.persistence import ExactCheckpoint
from tests.persistence.cases import NET, SMALL, TOTAL, CutAt, GracefulStop, StopOnSignal, cart_poles

GOLDEN = Path(__file__).parent.parent / "golden"


def make(folder):
    stop = GracefulStop()
    model = NotesPPO("MlpPolicy", cart_poles(), **SMALL, **NET)
    model.learn(TOTAL, [ExactCheckpoint(10**9, path=folder), CutAt(stop, 150), StopOnSignal(stop)])
    (folder / ".lock").unlink()
    observations = np.linspace(-0.2, 0.2, 32, dtype=np.float32).reshape(8, 4)
    with th.no_grad():
        values = model.policy.predict_values(model.policy.obs_to_tensor(observations)[0]).flatten().tolist()
    expected = {
        "num_timesteps": model.num_timesteps,
        "total_timesteps": TOTAL,
        "observations": observations.tolist(),
        "actions": model.predict(observations, deterministic=True)[0].tolist(),
        "values": values,
    }
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    th.set_num_threads(1)
    target = GOLDEN / f"checkpoint-{__version__}"
    if target.exists():
        raise SystemExit(f"{target} is there: a golden checkpoint is not made twice")
    make(target)
