"""One file, one model: its config, its own heads, `loss` and `predict`."""
