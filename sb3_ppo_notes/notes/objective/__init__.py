"""Part III, the objective: what an update climbs."""
