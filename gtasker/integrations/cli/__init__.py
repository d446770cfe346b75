"""What the command line does: `top` and `doctor`, each a module.

Invariant: nothing is imported here, so that `doctor` needs no terminal library.
"""
