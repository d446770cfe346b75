"""Kills, time-outs and outages against every pool: what is left afterwards.

Invariant: a scenario knows no pool and a pool knows no scenario; they meet in one process, under a deadline.
"""
