"""Part I, words: what the numbers are called and what they are."""
