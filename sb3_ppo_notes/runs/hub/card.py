"""The model card: what the Hub reads of it (YAML), and what people do (Markdown with the code that plays the model)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sb3_ppo_notes.callbacks import Episodes
from sb3_ppo_notes.configs.run_config import RunConfig

#: A library that the Hub knows: whose models it lists, and whose downloads it counts by their zip files.
LIBRARY = "stable-baselines3"
TASK = "reinforcement-learning"


@dataclass(frozen=True)
class Card:
    """All that a card says.

    :param model_file: the zip's name in the folder.
    :param normalizer_file: of the statistics of the normaliser, ``None`` without one.
    :param rule: choices by slot, in words.
    :param num_timesteps: environment steps that the model has trained for.
    :param seed: of the first episode of the evaluation.
    :param film: of the first of these episodes; ``None`` without one.
    :param missing: what is not there, and why, a sentence each.
    """

    config: RunConfig
    repository: str
    model_file: str
    normalizer_file: str | None
    rule: Mapping[str, str]
    num_timesteps: int
    episodes: Episodes
    seed: int
    film: str | None
    missing: Sequence[str]

    @property
    def result(self) -> str:
        """Mean and standard deviation of the return, as the Hub's leaderboards read it."""
        return f"{self.episodes.mean_return:.2f} +/- {self.episodes.std_return:.2f}"

    def metadata(self) -> dict[str, Any]:
        """What the Hub finds a model by, and the result in the form of its ``model-index``."""
        config = self.config
        result = {
            "task": {"type": TASK, "name": TASK},
            "dataset": {"type": config.env, "name": config.env},
            "metrics": [{"type": "mean_reward", "value": self.result, "name": "mean_reward", "verified": False}],
        }
        return {
            "library_name": LIBRARY,
            "pipeline_tag": TASK,
            "tags": [config.env, "deep-reinforcement-learning", TASK, LIBRARY, "sb3-ppo-notes", config.algo],
            "model-index": [{"name": config.algo.upper(), "results": [result]}],
        }

    def __str__(self) -> str:
        config = self.config
        recipe = "" if config.recipe is None else f", by the recipe `{config.recipe}`"
        steps = f"{self.num_timesteps:,}"
        if self.num_timesteps < config.total_timesteps:
            steps += f" of {config.total_timesteps:,}"
        parts = [
            f"---\n{yaml.safe_dump(self.metadata(), sort_keys=False, allow_unicode=True)}---",
            f"# **{config.algo.upper()}** playing **{config.env}**",
            f"Trained for {steps} environment steps with `sb3_ppo_notes`, PPO and A2C for "
            f"[Stable-Baselines3](https://github.com/DLR-RM/stable-baselines3){recipe}.",
            _table({"mean return": self.result, **self._evaluation()}, ("evaluation", "")),
            *([] if self.film is None else [f'<video controls src="{self.film}"></video>']),
            *([] if not self.missing else ["Not here: " + "; ".join(self.missing) + "."]),
            self._usage(),
            "## Update rule",
            _table(self.rule, ("slot", "choice")),
            self._training(),
        ]
        return "\n\n".join(parts) + "\n"

    def _evaluation(self) -> dict[str, str]:
        lengths = self.episodes.lengths
        return {
            "episodes": f"{len(lengths)}, of seeds that training has not seen",
            "mean length": f"{sum(lengths) / len(lengths):.1f} steps",
            "policy": "deterministic",
        }

    def _usage(self) -> str:
        normalizer = "" if self.normalizer_file is None else f', normalizer="{self.normalizer_file}"'
        return f"""## Usage

```bash
pip install sb3-ppo-notes huggingface_hub
hf download {self.repository} --local-dir .
```

`load_safe` runs nothing that is in the file. The code repeats the evaluation above:

```python
from sb3_ppo_notes.callbacks import evaluate_episodes
from sb3_ppo_notes.configs.build import trained_environments
from sb3_ppo_notes.persistence import load_safe

# The environment as in training: its wrappers, stacked frames and what its normaliser has learned.
env = trained_environments("config.yaml"{normalizer})
model = load_safe("{self.model_file}", env, device="cpu")
env = model.get_env()
env.seed({self.seed})
episodes = evaluate_episodes(model, env, {len(self.episodes.returns)})
print(f"{{episodes.mean_return:.2f}} +/- {{episodes.std_return:.2f}}")
```"""

    def _training(self) -> str:
        versions = (
            ", ".join(f"{name} {version}" for name, version in self.config.versions.items()) or "not written down"
        )
        return f"""## Training

```bash
python -m sb3_ppo_notes train --config config.yaml
```

trains it again, bit for bit with the same versions ({versions}) on the same kind of processor."""


def _table(rows: Mapping[str, str], heading: tuple[str, str]) -> str:
    cells = [heading, ("---", "---"), *((title, text.replace("|", r"\|")) for title, text in rows.items())]
    return "\n".join(f"| {title} | {text} |" for title, text in cells)
