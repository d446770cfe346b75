"""Worker classes that show what a test cannot see from outside.

Invariant: they do what the class does that they are made from.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from gtasker.integrations.gunicorn import GTaskerWorker


class CountingWorker(GTaskerWorker):
    """Adds a line to the file that GTASKER_WEB_ACCEPTED names, for each connection that it accepts.

    What the kernel resets before that, no server can answer.
    """

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Count the connection, then serve it."""
        file = os.open(os.environ["GTASKER_WEB_ACCEPTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, b"accepted\n")
        os.close(file)
        super().handle(listener, client, addr)


class EarlyWorker(GTaskerWorker):
    """The first of them is told to leave before Gunicorn has set its signal handlers."""

    def patch(self) -> None:
        """Gunicorn's first step in a new process."""
        if self.age == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        super().patch()
