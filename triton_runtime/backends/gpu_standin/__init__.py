"""Stands in for a GPU."""
