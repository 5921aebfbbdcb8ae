"""What our backends import: in Triton's stubs, which find a copy of this package, and here under the same name.

Its modules therefore need the standard library, NumPy and what Triton itself brings, and nothing else.
"""
