"""Part II, returns: what an action was worth."""
