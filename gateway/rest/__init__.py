"""The REST face: a thin layer over the core. Never imports Triton, never works on arrays."""
