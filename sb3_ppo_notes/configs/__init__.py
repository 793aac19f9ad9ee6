"""Plain data that becomes environments and models: rl_zoo3's words, tuned values, rules, presets."""
