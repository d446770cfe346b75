"""The pools under test, each behind the same three calls, each used as its own documentation uses it.

Invariant: an adapter adds no healing, no retry and no clean-up that the pool's users would not have.
"""
