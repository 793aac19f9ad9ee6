"""``hub``: a trained run as the folder of a repository on the Hugging Face Hub."""
