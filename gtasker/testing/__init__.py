"""Helpers for tests and examples: a throw-away server and a proxy that breaks connections on purpose.

Invariant: whatever these helpers start is stopped by their context managers, and at the latest ends with the process.
Nothing is imported here: ``gtasker.testing.postgres`` needs the standard library alone.
"""
