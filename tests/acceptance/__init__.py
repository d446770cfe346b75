"""Acceptance: each promise of the contract, tested from outside, by the public names alone."""
