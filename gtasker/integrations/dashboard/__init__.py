"""A page to look at: what the runners of all processes do now, and did in the last minutes.

Invariant: nothing is shown without a token, nothing leaves this machine unasked, and the page fetches nothing from
elsewhere.

    from gtasker.integrations.dashboard import Dashboard

    dashboard = Dashboard(token=...)                      # or GTASKER_DASHBOARD_TOKEN; without one it is off
    runner = Runner(Config(on_event=dashboard.recorder(), ...))
    app = dashboard.mount(app, "/gtasker")                # beside the application, or alone: dashboard.serve()

Behind several processes, as under Gunicorn, give them a directory in common (`directory=`): then each shows all.
"""

from __future__ import annotations

from gtasker.integrations.dashboard._dashboard import DIRECTORY_VARIABLE, TOKEN_VARIABLE, Dashboard

__all__ = ["DIRECTORY_VARIABLE", "TOKEN_VARIABLE", "Dashboard"]
