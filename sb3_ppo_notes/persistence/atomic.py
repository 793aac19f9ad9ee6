"""Files that are there whole or not at all: the public name of ``sb3_ppo_notes._atomic``.

The code stands at the package's root because ``model.save`` and the normalisers, which may not import from here, write
their files with it too.
"""

from sb3_ppo_notes._atomic import replacing, sync_folder, temporary_beside, write_bytes, write_text, write_whole

__all__ = ["replacing", "sync_folder", "temporary_beside", "write_bytes", "write_text", "write_whole"]
