"""The pictures: each module measures one thing and draws it.

Invariant: `draw()` returns a finished figure and leaves nothing running.
"""
