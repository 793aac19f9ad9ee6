"""TensorBoard's "custom scalars" page: the curves that belong together in one plot."""

from typing import Any

from stable_baselines3.common.logger import Logger

LAYOUT: dict[str, dict[str, list[Any]]] = {
    "notes: how far the policy moves": {
        "KL(old ‖ new)": ["Multiline", ["notes/kl/(k1|k2|k3|exact)$", "train/approx_kl"]],
        "clip fraction": ["Multiline", ["train/clip_fraction"]],
        "ratios": ["Multiline", ["notes/ratio/"]],
    },
    "notes: how undecided it is": {
        "entropy, of the largest possible": ["Multiline", ["notes/entropy/relative"]],
        "standard deviation by action dimension": ["Multiline", ["notes/std/"]],
    },
    "notes: how well it is taught": {
        "explained variance": ["Multiline", ["train/explained_variance"]],
        "gradient before clipping": ["Multiline", ["notes/gradient/(norm|actor|critic)$"]],
        "scales": ["Multiline", ["notes/scale/"]],
    },
    "notes: whether it can still learn": {
        "dormant and saturated units": ["Multiline", ["notes/units/(dormant|saturated)$"]],
        "feature rank": ["Multiline", ["notes/units/rank$"]],
    },
}


def add_layout(logger: Logger) -> None:
    """Write the layout to every TensorBoard writer of a logger that does not have it yet."""
    for output in logger.output_formats:
        writer: Any = getattr(output, "writer", None)
        if hasattr(writer, "add_custom_scalars") and not getattr(output, "has_notes_layout", False):
            writer.add_custom_scalars(LAYOUT)
            output.has_notes_layout = True  # type: ignore[attr-defined]
