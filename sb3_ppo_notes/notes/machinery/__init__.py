"""Part VII, machinery: environments, processes, order."""
