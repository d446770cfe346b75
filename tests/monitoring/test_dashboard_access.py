"""The dashboard's gate: nothing without the token, nothing from elsewhere, nothing changed without the seal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtasker import State
from gtasker.integrations.dashboard import Dashboard
from gtasker.integrations.dashboard import _access as access
from tests.conftest import MakeRunner
from tests.monitoring._visitor import TOKEN, Visitor, insider
from tests.monitoring.conftest import MakeBusy, work

Closing = Callable[[Any], Any]


@pytest.fixture
def dashboard(closing: Closing) -> Dashboard:
    """A dashboard as it is by default, but for its token."""
    made: Dashboard = closing(Dashboard(token=TOKEN))
    return made


@pytest.fixture
def commanding(closing: Closing) -> Dashboard:
    """A dashboard that lets visitors command."""
    made: Dashboard = closing(Dashboard(token=TOKEN, control=True))
    return made


PLACES = [("/", "GET"), ("/stats.json", "GET"), ("/command", "POST"), ("/enter", "POST"), ("/leave", "POST")]


def test_without_a_token_it_is_off(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GTASKER_DASHBOARD_TOKEN", raising=False)
    dashboard = closing(Dashboard())

    assert not dashboard.is_on
    assert {Visitor(dashboard).ask(path, method).status for path, method in PLACES} == {404}
    with pytest.raises(ValueError, match="GTASKER_DASHBOARD_TOKEN"):
        dashboard.serve()


def test_the_environment_may_give_the_token_and_the_directory(
    closing: Closing, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("GTASKER_DASHBOARD_TOKEN", TOKEN)
    monkeypatch.setenv("GTASKER_DASHBOARD_DIRECTORY", str(folder))
    dashboard = closing(Dashboard())

    insider(dashboard).numbers()

    assert list(folder.iterdir())


def test_a_short_token_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        Dashboard(token="short")


def test_a_stranger_sees_the_door_and_nothing_else(dashboard: Dashboard, busy: MakeBusy) -> None:
    busy(completed=3, name="secretive")
    stranger = Visitor(dashboard)

    door = stranger.ask("/")
    numbers = stranger.ask("/stats.json")

    assert (door.status, numbers.status) == (401, 401)
    assert door.headers["WWW-Authenticate"] == numbers.headers["WWW-Authenticate"] == "Bearer"
    assert b"secretive" not in door.body + numbers.body
    assert b'name="token"' in door.body


def test_the_token_opens_the_door(dashboard: Dashboard, busy: MakeBusy) -> None:
    busy(completed=3, name="shop")
    visitor = Visitor(dashboard)

    answer = visitor.enter()

    assert (answer.status, answer.headers["Location"]) == (303, "./")
    assert visitor.ask("/").status == 200
    assert [runner["name"] for runner in visitor.numbers()["runners"]] == ["shop"]


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é" * 20])
def test_a_wrong_token_opens_nothing(dashboard: Dashboard, token: str) -> None:
    visitor = Visitor(dashboard)

    assert visitor.enter(token).headers["Location"] == "./?wrong"
    assert visitor.ask("/stats.json").status == 401
    latin = token.encode("utf-8").decode("latin-1")  # as a server passes it on
    assert Visitor(dashboard).ask("/stats.json", Authorization=f"Bearer {latin}").status == 401


def test_a_program_sends_the_token_along(dashboard: Dashboard) -> None:
    assert Visitor(dashboard).ask("/stats.json", Authorization=f"Bearer {TOKEN}").status == 200


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_is_not_the_token(dashboard: Dashboard) -> None:
    cookie = Visitor(dashboard).enter().headers["Set-Cookie"]
    over_tls = Visitor(dashboard, **{"wsgi.url_scheme": "https"}).enter().headers["Set-Cookie"]

    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(re.split("; ?", cookie))
    assert "Secure" in over_tls
    assert TOKEN not in cookie


def test_below_a_prefix_the_cookie_is_for_the_prefix_alone(dashboard: Dashboard) -> None:
    def hello(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    app = dashboard.mount(hello, "gtasker/")
    visitor = Visitor(app)

    assert visitor.ask("/").body == b"hello"
    assert visitor.ask("/gtaskers").body == b"hello"
    assert visitor.ask("/gtasker").headers["Location"] == "/gtasker/"
    assert visitor.ask("/gtasker/").status == 401
    entered = visitor.ask("/gtasker/enter", "POST", f"token={TOKEN.replace(' ', '+')}".encode())
    assert "Path=/gtasker;" in entered.headers["Set-Cookie"] + ";"
    assert visitor.ask("/gtasker/").status == 200


def test_a_forged_or_foreign_session_is_none(dashboard: Dashboard, closing: Closing) -> None:
    other = Visitor(closing(Dashboard(token="another token of some length")))
    other.enter("another token of some length")
    [cookie] = [one.value for one in other.cookies.values()]
    session, _, signature = cookie.partition(".")
    [mine] = insider(dashboard).cookies

    for forged in (cookie, session, f"{session}.", f"{session}.{'0' * 64}", f"x.{signature}", ".", "é", '"'):
        visitor = Visitor(dashboard)
        visitor.cookies[mine] = forged
        assert visitor.ask("/stats.json").status == 401


def test_a_session_ends_and_every_process_with_the_token_knows_it(
    dashboard: Dashboard, closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(access, "monotonic", lambda: now)
    visitor = insider(dashboard)
    elsewhere = Visitor(closing(Dashboard(token=TOKEN)))
    elsewhere.cookies = visitor.cookies

    now += access.SESSION_SPAN - 1
    assert elsewhere.ask("/").status == 200
    now += 2
    assert elsewhere.ask("/").status == 401
    now = 10.0  # the machine was booted meanwhile
    assert elsewhere.ask("/").status == 401


def test_two_dashboards_of_one_host_do_not_share_their_cookie(dashboard: Dashboard, closing: Closing) -> None:
    visitor = insider(dashboard)
    other = Visitor(closing(Dashboard(token="another token of some length")))
    other.cookies = visitor.cookies  # a browser sends those of all ports of a host
    other.enter("another token of some length")

    assert (visitor.ask("/").status, other.ask("/").status) == (200, 200)


def test_leaving_forgets_the_session(dashboard: Dashboard) -> None:
    visitor = insider(dashboard)

    visitor.ask("/leave", "POST")

    assert visitor.ask("/").status == 401


@pytest.mark.parametrize(
    "environ",
    [
        {"REMOTE_ADDR": "192.168.1.7"},
        {"REMOTE_ADDR": "2001:db8::1"},
        {"HTTP_HOST": "rebound.example:8484"},
        {"HTTP_X_FORWARDED_FOR": "203.0.113.9"},
        {"HTTP_FORWARDED": "for=203.0.113.9"},
        {"HTTP_X_FORWARDED_PROTO": "https"},
        {"HTTP_VIA": "1.1 proxy"},
        {"REMOTE_ADDR": ""},
    ],
    ids=lambda environ: "".join(environ.values()) or "unix socket",
)
def test_who_asks_from_elsewhere_is_refused_even_with_the_token(
    environ: dict[str, str], dashboard: Dashboard, closing: Closing
) -> None:
    stranger = Visitor(dashboard, **environ)
    assert stranger.ask("/stats.json", Authorization=f"Bearer {TOKEN}").status == 403
    assert stranger.enter().status == 403

    opened = Visitor(closing(Dashboard(token=TOKEN, loopback_only=False)), **environ)
    assert opened.ask("/stats.json", Authorization=f"Bearer {TOKEN}").status == 200


@pytest.mark.parametrize(
    "environ",
    [{"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:8484"}, {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "LOCALHOST"}],
)
def test_who_asks_from_this_machine_is_not(environ: dict[str, str], dashboard: Dashboard) -> None:
    assert insider(dashboard, **environ).ask("/").status == 200


def test_it_is_served_to_this_machine_alone_unless_told_otherwise(dashboard: Dashboard) -> None:
    with pytest.raises(ValueError, match="loopback_only"):
        dashboard.serve("0.0.0.0", 0)

    server = dashboard.serve(port=0)
    assert server.address[0] == "127.0.0.1"


def test_all_that_it_serves_at_ends_with_it(dashboard: Dashboard) -> None:
    servers = [dashboard.serve(port=0) for _ in range(2)]

    dashboard.close()

    assert all(server.closed for server in servers)


def test_nothing_may_be_cached_framed_or_loaded_from_elsewhere(dashboard: Dashboard) -> None:
    for answer in (Visitor(dashboard).ask("/"), insider(dashboard).ask("/"), insider(dashboard).ask("/stats.json")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_is_one_file_with_a_nonce_of_its_own(dashboard: Dashboard) -> None:
    visitor = insider(dashboard)
    first, second = visitor.ask("/"), visitor.ask("/")

    [nonce] = set(re.findall(r'nonce="([^"]+)"', first.body.decode()))
    assert f"'nonce-{nonce}'" in first.headers["Content-Security-Policy"]
    assert nonce not in second.body.decode()
    assert not re.findall(rb"""(?:src|href)=["'](?!data:,|#)""", first.body)
    assert not re.findall(rb"https?://(?!www\.w3\.org/2000/svg)", first.body)
    assert b"{{" not in first.body


def test_the_title_is_text(closing: Closing) -> None:
    dashboard = closing(Dashboard(token=TOKEN, title='</title><script>alert("x")</script>'))

    assert b"<script>alert" not in insider(dashboard).ask("/").body


def test_other_methods_and_places_are_refused(dashboard: Dashboard) -> None:
    visitor = insider(dashboard)

    assert visitor.ask("/", "POST").status == 405
    assert visitor.ask("/command").headers["Allow"] == "POST"
    assert visitor.ask("/command").status == 405
    assert visitor.ask("/stats.json", "DELETE").status == 405
    assert visitor.ask("/elsewhere").status == 404
    assert visitor.ask("/", "HEAD").body == b""


def test_it_is_read_only_by_default(dashboard: Dashboard, busy: MakeBusy) -> None:
    runner = busy(name="shop")
    visitor = insider(dashboard)

    assert visitor.numbers()["seal"] is None
    assert visitor.command(runner="shop", action="pause").status == 403
    assert runner.state is State.RUNNING


def test_who_may_command_pauses_and_resumes(commanding: Dashboard, busy: MakeBusy) -> None:
    runner, other = busy(name="shop"), busy(name="mail")
    visitor = insider(commanding)

    assert visitor.command(runner="shop", action="pause").status == 200
    assert (runner.state, other.state) == (State.PAUSED, State.RUNNING)

    assert visitor.command(runner="shop", action="resume").status == 200
    assert runner.state is State.RUNNING
    assert any("Told to pause" in event["text"] for event in visitor.numbers()["events"])


def test_who_may_command_resizes_and_recycles(commanding: Dashboard, busy: MakeBusy) -> None:
    runner = busy(name="shop", worker_count=2, resource_pool_size=1)
    before = {resource.resource_id for resource in runner.resources()}
    visitor = insider(commanding)

    assert visitor.command(runner="shop", action="resize", worker_count=4, max_resources=9).status == 200
    assert visitor.command(runner="shop", action="recycle").status == 200

    assert (runner.bounds().base_workers, runner.bounds().max_resources) == (4, 9)
    work(runner, completed=5)
    assert not before & {resource.resource_id for resource in runner.resources() if resource.state == "idle"}


@pytest.mark.parametrize("seal", ["", "0" * 64, "é"])
def test_without_the_seal_of_the_session_nothing_is_commanded(seal: str, commanding: Dashboard, busy: MakeBusy) -> None:
    runner = busy(name="shop")
    visitor = insider(commanding)
    of_another = insider(commanding).numbers()["seal"]
    order = json.dumps({"runner": "shop", "action": "pause"}).encode()

    assert visitor.ask("/command", "POST", order, X_Gtasker_Seal=seal).status == 403
    assert visitor.ask("/command", "POST", order, X_Gtasker_Seal=of_another).status == 403
    assert Visitor(commanding).ask("/command", "POST", order, X_Gtasker_Seal=of_another).status == 401
    assert runner.state is State.RUNNING


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"runner": "shop"},
        {"runner": "shop", "action": "kill"},
        {"runner": "shop", "action": "stop"},
        {"runner": "shop", "action": "resize"},
        {"runner": "shop", "action": "pause", "worker_count": 3},
        {"runner": "shop", "action": "resize", "worker_count": "3"},
        {"runner": "shop", "action": "resize", "worker_count": True},
        {"runner": "shop", "action": "resize", "worker_count": 10**9},
        {"runner": "shop", "action": "resize", "worker_count": 0},
        {"runner": "shop", "action": "resize", "max_resources": 1},
        {"runner": ["shop"], "action": "pause"},
        {"runner": "shop", "action": ["pause"]},
    ],
    ids=str,
)
def test_an_order_that_makes_no_sense_is_refused_with_a_reason(
    order: dict[str, Any], commanding: Dashboard, busy: MakeBusy
) -> None:
    runner = busy(name="shop")
    bounds = runner.bounds()

    answer = insider(commanding).command(**order)

    assert answer.status == 400
    assert answer.json["error"]
    assert (runner.state, runner.bounds()) == (State.RUNNING, bounds)


def test_a_body_without_sense_or_end_is_refused(commanding: Dashboard, make_runner: MakeRunner) -> None:
    visitor = insider(commanding)
    seal = visitor.numbers()["seal"]

    for body in (b"[]", b"{", b"\xff", b"[" * 4000, b'{"runner": "' + b"x" * 100_000 + b'"}'):
        assert visitor.ask("/command", "POST", body, X_Gtasker_Seal=seal).status == 400
