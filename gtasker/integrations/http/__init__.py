"""HTTP clients for a runner: ``http.requests``, ``http.urllib3`` and ``http.httpx``, each imported by its own name.

Invariant: a client goes to its next user with the headers, cookies and settings it was made with and without a response
that is still open, or is replaced.

    from gtasker.integrations.http.requests import resource

    with Runner(**resource(timeout=10), worker_count=10) as runner:
        runner.queue_task(lambda session: session.get(url).json())

Making a client asks nobody, so a runner learns that a service is down from the tasks alone, unless it is given a
``probe``: a URL of the service that is asked when a client is made, and when it has idled. Whether a request that broke
off was carried out, nobody knows: give tasks that must not be repeated ``once=True``.
"""

from __future__ import annotations

from gtasker.integrations.http._common import OpenResponseError

__all__ = ["OpenResponseError"]
