"""The LSTM in C and its Python face: no policies, no SB3."""
