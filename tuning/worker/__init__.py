"""Workers: processes that train the trials of a study, evaluate them and tell what became of them."""
