"""Backends of ours for Triton, which loads each `<name>/model.py` by its path, in a process of its own."""
