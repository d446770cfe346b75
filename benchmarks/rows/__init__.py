"""The rows: each function measures one and returns what it found.

Invariant: a row holds its reference and its contenders open at the same time and interleaves their rounds.
"""
