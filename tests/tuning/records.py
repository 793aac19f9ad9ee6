"""Records of studies that never ran, to make reports of."""

import numpy as np

from tuning.report.data import StudyRecord, TestedSetup, TrialRecord
from tuning.selection import Protocol
from tuning.space import Space


def record(n_trials=40, *, tested=True, finalists=True, algo="notes_ppo", vary=(), **changes):
    """A study of CartPole: scores grow with the learning rate, some trials are pruned, one fails, one diverges."""
    rng = np.random.default_rng(0)
    space = Space.default(algo).vary(vary)
    protocol = Protocol()
    marks = protocol.marks_in_steps(50_000)
    trials = []
    for number in range(n_trials):
        configuration = space.random(rng)
        worth = float(np.clip(250 + 110 * np.log10(configuration["learning_rate"] / 3e-4), 10, 500))
        curve = {step: float(min(worth * step / 30_000, worth) + rng.normal(0, 9)) for step in marks}
        details = dict(state="complete", score=float(np.mean(list(curve.values())[-3:])), evaluations=curve)
        if number % 3 == 1:
            details = dict(state="pruned", reason="median", evaluations=dict(list(curve.items())[:4]))
        elif number == 3:
            details = dict(state="failed", reason="error", error="RuntimeError: no such door")
        elif number == 5:
            details |= dict(reason="diverged", score=-1000.0, error="NonFiniteError: rewards must be finite, got nan")
        details |= dict(configuration=configuration, env_steps=max(details.get("evaluations", {0: 0})), seconds=4.0)
        origin = "SB3 defaults" if number == 0 else "rl_zoo3" if number == 2 else "sampler"
        trials.append(TrialRecord(number, origin=origin, **details))
    best = sorted((trial for trial in trials if trial.state == "complete"), key=lambda trial: -trial.score)[:5]
    if finalists:
        for place, trial in enumerate(best):
            scores = {seed: trial.score - 8 + float(rng.normal(0, 6)) for seed in (1, 2, 3, 4)[: 4 - min(place, 3)]}
            trials[trial.number] = TrialRecord(**{**vars(trial), "finalist_scores": scores})
    arms = []
    for name, mean in (("tuned", 470.0), ("SB3 defaults", 310.0), ("rl_zoo3", 455.0)):
        scores = {seed: float(np.clip(mean + rng.normal(0, 20), 0, 500)) for seed in protocol.test_seeds}
        curves = {seed: {step: min(1.0, step / 3e4) * score for step in marks} for seed, score in scores.items()}
        arms.append(TestedSetup(name, scores, curves))
    values = dict(
        name="cartpole",
        env_id="CartPole-v1",
        algo=algo,
        total_timesteps=50_000,
        budget=2_000_000,
        env_steps=sum(trial.env_steps for trial in trials) + 700_000,
        seconds=3725.0,
        space=space.fingerprint(),
        protocol=protocol.fingerprint(),
        base={"n_envs": 8, "policy": "MlpPolicy"},
        versions={"sb3-ppo-notes": "1.0", "optuna": "5.0.0"},
        storage="postgresql://tuner:secret@db.example.org/studies",
        trials=tuple(trials),
        winner=best[0].number if finalists and best else None,
        tuning_score=float(np.mean(list(trials[best[0].number].finalist_scores.values())))
        if finalists and best
        else None,
        tested=tuple(arms) if tested and finalists else (),
        warm_start_problems=("rl_zoo3: rl_zoo3 'clip_range'=0.18 outside one of 0.1, 0.2",),
        sampler="tpe, seed 0",
    )
    return StudyRecord(**{**values, **changes})
