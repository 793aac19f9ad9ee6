"""What a user does from the shell: one module a command."""
