"""Applications under real servers, under load, and told to stop."""

from __future__ import annotations

WORKERS, MAX_RESOURCES = 5, 7
"""Of the runner in each process that serves the tests' application."""
