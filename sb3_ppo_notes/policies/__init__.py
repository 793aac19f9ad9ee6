"""Networks: from observations to distribution parameters and values."""
