"""The command line: `gtasker top` and `gtasker doctor`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gtasker.cli import main
from gtasker.integrations.cli import _drawing as drawing
from gtasker.integrations.cli import doctor as _doctor
from gtasker.integrations.cli._asking import AskingError, Dashboard, RefusedError
from gtasker.integrations.cli.top import run
from gtasker.integrations.dashboard._access import LEAST_TOKEN
from tests.acceptance.kit import eventually
from tests.monitoring._processes import Process
from tests.monitoring._visitor import TOKEN
from tests.monitoring.conftest import StartProcess

ROOT = Path(__file__).parents[2]
Monkey = pytest.MonkeyPatch


def doctor(*arguments: str, patched: bool = False, **environment: str) -> tuple[int, str]:
    """Exit status and words of `gtasker doctor`, as a user runs it in a folder of his own."""
    how = ["-m", "gevent.monkey", "--module", "gtasker"] if patched else ["-m", "gtasker"]
    done = subprocess.run(
        [sys.executable, *how, "doctor", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=environment.pop("cwd", None),
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environment},
        timeout=50,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_the_doctor_tells_what_the_runners_stand_on() -> None:
    status, said = doctor()

    assert status == 0
    assert "gevent 2" in said
    assert "event loop gevent." in said
    assert "nothing is patched" in said
    assert said.endswith("nothing amiss\n")


def test_the_doctor_sees_what_was_patched() -> None:
    _, said = doctor(patched=True)

    assert "patched: socket, ssl, select" in said
    assert "nothing is patched" not in said


def test_the_doctor_finds_a_driver_that_stops_every_greenlet(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import psycopg2\n")
    status, said = doctor("app", cwd=str(tmp_path))
    assert status == 1
    assert "psycopg2 has no wait callback" in said

    (tmp_path / "app.py").write_text("from gtasker.integrations.psycopg2 import make_cooperative\nmake_cooperative()\n")
    status, said = doctor("app", cwd=str(tmp_path))
    assert status == 0
    assert "waits by gtasker." in said


def test_the_doctor_tells_a_module_that_is_missing_from_one_that_lacks_something(
    capsys: pytest.CaptureFixture[str], monkeypatch: Monkey, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "lacking.py").write_text("import there_is_no_such_module\n")

    assert main(["doctor", "there_is_no_such_package.app"]) == 2
    assert "there is no module there_is_no_such_package" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        main(["doctor", "lacking"])


@pytest.mark.parametrize("name", ["", ".relative", "myapp.wsgi:app", "my-app"])
def test_the_doctor_knows_what_is_no_module_s_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", name]) == 2
    assert "is no module's name" in capsys.readouterr().err


def test_the_doctor_is_not_ended_by_a_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: Monkey, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "ending.py").write_text("raise SystemExit(0)\n")

    assert main(["doctor", "ending"]) == 2
    assert "ending is a program of its own" in capsys.readouterr().err


def test_the_doctor_and_the_dashboard_agree_on_tokens() -> None:
    assert _doctor.LEAST_TOKEN == LEAST_TOKEN


def test_the_doctor_knows_a_foreign_wait_callback(tmp_path: Path) -> None:
    lines = ("from psycopg2 import extensions", "def wait(c): ...", "extensions.set_wait_callback(wait)")
    (tmp_path / "app.py").write_text("\n".join(lines))

    status, said = doctor("app", cwd=str(tmp_path))

    assert status == 0
    assert "waits by app.wait" in said
    assert "make_cooperative(replace=True)" in said


def test_the_doctor_sums_up_what_a_process_may_open(tmp_path: Path) -> None:
    options = "on_create=object, on_destroy=print, worker_count"
    app = f"from gtasker import Runner\na = Runner({options}=100)\nb = Runner({options}=2, max_worker_count=900)\n"
    (tmp_path / "app.py").write_text(app)

    status, said = doctor("app", cwd=str(tmp_path))
    assert status == 0
    assert "runner 'runner-1': 100 to 102 workers, at most 202 resources" in said
    assert "each process may open 1104 resources" in said

    limited = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n{app}"
    (tmp_path / "app.py").write_text(limited)
    status, said = doctor("app", cwd=str(tmp_path))
    assert status == 1
    assert "1024 descriptors allowed, 1104 resources" in said


def test_the_doctor_looks_at_the_environment(tmp_path: Path) -> None:
    status, said = doctor(PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "missing"), GTASKER_DASHBOARD_TOKEN="short")
    assert status == 1
    assert "cannot write" in said
    assert "shorter than 16" in said
    assert "2 amiss" in said

    (tmp_path / "counter_1.db").touch()
    status, said = doctor(PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    assert status == 0
    assert "has files in it" in said


@pytest.fixture
def shop(start_process: StartProcess) -> Process:
    """A shop with a dashboard at an address of its own."""
    return start_process("_shop", "orders", "--port", "0")


@pytest.fixture
def url(shop: Process, monkeypatch: Monkey) -> str:
    """Its address; the token is in the environment."""
    monkeypatch.setenv("GTASKER_DASHBOARD_TOKEN", TOKEN)
    host, port = shop.ready
    return f"{host}:{port}"


def top(url: str, **options: Any) -> str:
    """What `gtasker top --once` prints on a screen that is wide enough."""
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  # closed below
    with console.file:
        assert run(url, once=True, console=console, **options) == 0
    return console.export_text()


def test_top_shows_what_the_page_shows(url: str, shop: Process) -> None:
    shop.tell("work", 12)
    shop.tell("hold", 5)
    eventually(lambda: "in use 4" in top(url), "the tasks are shown")

    said = top(url)

    assert "Shop  orders" in said
    assert "4 / 4" in said
    assert "resources: 6 of at most 8" in said
    assert "■ ■ ■ ■" in said
    assert "checkout" in said
    assert "Runner new → running" in said
    assert str(shop.pid) in said


def test_top_goes_on_until_it_is_interrupted_and_leaves_the_terminal_as_it_was(url: str, shop: Process) -> None:
    screen, terminal = os.openpty()
    command = [sys.executable, "-m", "gtasker", "top", url]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "50"}
    watching = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT, env=environment)
    os.close(terminal)
    said = b""

    def hear(word: bytes) -> None:
        nonlocal said
        while word not in said:
            said += os.read(screen, 65536)

    try:
        hear(b"orders")
        shop.tell("hold", 3)
        hear(b"in use 3")
        shop.kill()
        hear(b"no answer from")
        watching.send_signal(signal.SIGINT)
        hear(b"\x1b[?1049l")  # out of the alternate screen
        hear(b"\x1b[?25h")  # the cursor is shown again
        assert watching.wait(20) == 0
    finally:
        watching.kill()
        watching.wait(20)
        os.close(screen)


def test_top_shows_an_outage(url: str, shop: Process) -> None:
    shop.tell("take_away")
    words = ("backing off 6", "no resource could be made for", "(ConnectionRefusedError)", "Backend down")
    eventually(lambda: all(word in said for said in [top(url)] for word in words), "the outage is shown", 20)

    shop.tell("give_back")
    eventually(lambda: "Backend back" in top(url), "the healing is shown", 20)


def test_top_shows_the_runner_that_is_wanted(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "orders" in top(url, runner="orders")

    assert main(["top", url, "--once", "--runner", "elsewhere"]) == 1
    assert "there are: orders" in capsys.readouterr().err


def test_top_says_what_is_wrong(url: str, monkeypatch: Monkey, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "127.0.0.1:9", "--once"]) == 1
    assert "no answer" in capsys.readouterr().err

    assert main(["top", f"http://{url}/elsewhere", "--once"]) == 1
    assert "says 404" in capsys.readouterr().err

    monkeypatch.setenv("GTASKER_DASHBOARD_TOKEN", "not the token of it")
    assert main(["top", url, "--once"]) == 1
    assert "that is not the token" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://127.0.0.1/",
        "http:///",
        "http://10.0.0.7:8484",
        "http://[::1",
        "http://127.0.0.1:port/",
        "http://127.0.0.1:99999/",
    ],
)
def test_the_token_goes_nowhere_in_the_clear(url: str) -> None:
    with pytest.raises(RefusedError):
        Dashboard(url, TOKEN)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"-ERR wrong protocol\r\n", "no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", "is no dashboard"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "is no dashboard"),
    ],
)
def test_what_is_no_dashboard_is_said_to_be_none(answer: bytes, said: str, closing: Callable[[Any], Any]) -> None:
    assert said in asked_of(answer, closing)


def test_what_would_command_the_terminal_is_not_handed_on(closing: Callable[[Any], Any]) -> None:
    told = {"runners": [{"name": "\x1b[31mred\x9b"}], "processes": [], "events": [{"text": "a\nb\x07"}]}
    body = json.dumps(told).encode()

    heard = asked_of(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), closing)

    assert heard == {
        "runners": [{"name": "\ufffd[31mred\ufffd"}],
        "processes": [],
        "events": [{"text": "a\nb\ufffd"}],
    }


def asked_of(answer: bytes, closing: Callable[[Any], Any]) -> Any:
    """What comes of asking a server that says this and hangs up: the numbers, or the error's words."""
    from gevent.server import StreamServer  # noqa: PLC0415

    def serve(client: Any, _: object) -> None:
        client.recv(4096)
        client.sendall(answer)

    server = closing(StreamServer(("127.0.0.1", 0), serve))
    server.start()

    def ask() -> Any:
        try:
            return Dashboard(f"127.0.0.1:{server.server_port}", TOKEN).ask(0)
        except AskingError as error:
            return str(error)

    import gevent  # noqa: PLC0415

    return gevent.get_hub().threadpool.apply(ask)


def test_who_cannot_be_asked_for_the_token_is_told_so(monkeypatch: Monkey, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("GTASKER_DASHBOARD_TOKEN", raising=False)

    def nobody(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", nobody)

    assert main(["top", "127.0.0.1:9", "--once"]) == 2
    assert "set GTASKER_DASHBOARD_TOKEN" in capsys.readouterr().err


def test_the_address_may_be_given_as_people_know_it() -> None:
    for url in ("127.0.0.1:8484", "http://127.0.0.1:8484/", "http://127.0.0.1:8484/stats.json"):
        assert Dashboard(url, TOKEN)._url == "http://127.0.0.1:8484/stats.json"
    assert Dashboard("https://shop.example/gtasker/", TOKEN)._url == "https://shop.example/gtasker/stats.json"


def test_a_redirect_does_not_take_the_token_along(closing: Callable[[Any], Any]) -> None:
    from gevent.pywsgi import WSGIServer  # noqa: PLC0415

    asked: list[str] = []

    def elsewhere(environ: Any, start_response: Any) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        start_response("302 Found", [("Location", "/taken"), ("Content-Length", "0")])
        return []

    server = closing(WSGIServer(("127.0.0.1", 0), elsewhere, log=None))
    server.start()
    dashboard = Dashboard(f"127.0.0.1:{server.server_port}", TOKEN)

    def ask() -> str:
        with pytest.raises(AskingError) as caught:
            dashboard.ask(0)
        return str(caught.value)

    import gevent  # noqa: PLC0415

    assert "says 302" in gevent.get_hub().threadpool.apply(ask)
    assert asked == ["/stats.json"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.00012, "120 µs"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (75, "1 min 15 s"), (7300, "2 h 1 min")],
)
def test_spans_are_said_as_people_do(seconds: float, said: str) -> None:
    assert drawing.span(seconds) == said


def test_a_line_is_drawn_from_nought_to_the_greatest() -> None:
    assert drawing.spark([0, 1, 2, 4, 8]) == "▁▂▃▅█"
    assert drawing.spark([0, 0]) == "▁▁"
    assert drawing.spark([]) == ""


def test_what_others_named_is_no_markup(start_process: StartProcess, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("GTASKER_DASHBOARD_TOKEN", TOKEN)
    host, port = start_process("_shop", "[bold red]x[/]", "--port", "0").ready

    assert "[bold red]x[/]" in top(f"{host}:{port}")


def test_a_call_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["elsewhere"], ["top"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "usage: gtasker" in capsys.readouterr().err


def test_without_rich_top_says_what_to_install(monkeypatch: Monkey, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    for name in [name for name in sys.modules if name.startswith("gtasker.integrations.cli.")]:
        monkeypatch.delitem(sys.modules, name)

    assert main(["top", "127.0.0.1:8484"]) == 2
    assert "pip install 'gtasker[cli]'" in capsys.readouterr().err
