"""How Triton itself is started: a local launcher and its backends."""
