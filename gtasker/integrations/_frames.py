"""What an error keeps alive: the frames it came through, and with them a socket that a client had begun to open.

Invariant: only frames that have ended are touched.
"""

from __future__ import annotations

import traceback
import warnings


def let_go_of_frames(error: BaseException) -> None:
    """Have what was begun and given up freed now, and not when the last one forgets ``error``. Never switches.

    Clients close what they are opening after errors of the system, and leave it to the garbage collector after a kill;
    who keeps the error, as a log record does, would keep the server's session, too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # that a socket is freed unclosed is what is wanted here
        traceback.clear_frames(error.__traceback__)
