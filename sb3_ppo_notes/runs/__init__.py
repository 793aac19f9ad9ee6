"""The commands of the shell, a folder each."""
