"""``train``: one model from a configuration, a recipe or stock settings."""
