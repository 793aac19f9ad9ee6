"""A policy as a file that runs without this package: ONNX, or PyTorch's own format."""

from sb3_ppo_notes.export.exporter import Exported, export_policy

__all__ = ["Exported", "export_policy"]
