"""One picture of many videos."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio_ffmpeg
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from sb3_ppo_notes.callbacks.video import Episode
from sb3_ppo_notes.formulas.checks import InvalidValueError

COLUMNS = 5
#: More episodes than these make no picture that one looks at.
MAX_ROWS = 20
WIDTH_OF_A_PICTURE = 2.2  # inches


def draw_contact_sheet(episodes: Sequence[Episode], title: str, path: Path) -> None:
    """Draw the first, quarter, half, three-quarter and last frame of an episode, a row each, at most ``MAX_ROWS``.

    The frames are read from their files, as a viewer will see them.
    """
    if len(episodes) > MAX_ROWS:
        title = f"{title}, the first {MAX_ROWS} of {len(episodes)} episodes"
        episodes = episodes[:MAX_ROWS]
    rows = [frames_at(episode.path, steps_of(episode)) for episode in episodes]
    height, width = rows[0][0].shape[:2]
    size = (COLUMNS * WIDTH_OF_A_PICTURE, len(rows) * (WIDTH_OF_A_PICTURE * height / width + 0.4) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for number, (episode, frames, axes) in enumerate(zip(episodes, rows, grid, strict=True), start=1):
        cut = ", cut" if episode.is_cut else ""
        caption = f"episode {number}: return {episode.episode_return:.1f}, {episode.length} steps{cut}\n"
        for step, frame, cell in zip(steps_of(episode), frames, axes, strict=True):
            cell.imshow(frame)
            cell.set_title(f"{caption if cell is axes[0] else ''}step {step}", fontsize=8, loc="left")
            # A frame: many environments are drawn on white.
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_color("0.8")
    figure.savefig(path, dpi=110)


def steps_of(episode: Episode) -> list[int]:
    """The five steps after which an episode is shown: none, a quarter, a half, three quarters, all."""
    return [episode.length * part // (COLUMNS - 1) for part in range(COLUMNS)]


def frames_at(path: Path, indices: Sequence[int]) -> list[np.ndarray]:
    """Some frames of an mp4, ``[height, width, 3]`` each, 0 to 1; a video that is shorter is refused."""
    chosen = "+".join(f"eq(n\\,{index})" for index in sorted(set(indices)))
    with TemporaryDirectory() as folder:
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-vf", f"select={chosen}"]
        # Without passthrough it would fill the gaps between the chosen frames.
        command = [*ffmpeg, "-fps_mode", "passthrough", f"{folder}/%d.png"]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        frames = {
            index: imread(png)
            for number, index in enumerate(sorted(set(indices)), start=1)
            if (png := Path(folder) / f"{number}.png").exists()
        }
    if len(frames) < len(set(indices)):
        line = " ".join(result.stderr.split()) or "it is shorter"
        raise InvalidValueError(f"{path.name} must have the frames {list(indices)} ({line[:150]})")
    return [frames[index] for index in indices]
