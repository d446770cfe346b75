"""Ready-made settings for drivers and frameworks; each is imported by its own name, so that none is needed.

Invariant: a module here uses the public face of gtasker and its own driver, and nothing of gtasker's inside.
"""
