"""Helpers for tests and examples: a runner without workers, resources that keep books, throw-away servers, a proxy.

Invariant: whatever these helpers start is stopped by their context managers, and at the latest ends with the process.
Nothing is imported here: ``gtasker.testing.postgres`` and ``.redis`` need the standard library alone.
"""
