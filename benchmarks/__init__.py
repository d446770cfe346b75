"""What gtasker costs beside its rivals, and what it survives that they do not.

Invariant: every figure is a ratio to a reference that ran in the same process, in the same minute.
"""
