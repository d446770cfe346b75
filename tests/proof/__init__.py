"""Proofs that no hand-written example can replace: kills at every switch, storms that balance their books, a model."""
