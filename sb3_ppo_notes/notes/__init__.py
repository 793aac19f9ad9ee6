"""The notes: questions about PPO and A2C, each answered by an experiment, and a walk through the code."""
