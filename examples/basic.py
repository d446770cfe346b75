"""The basics: tasks wait in line for a connection, in order of priority; and what must not happen twice.

The resource is a connection to a calculator at the other end of a socket. The runner holds two of them, however many
greenlets ask.

    $ python examples/basic.py
    10 * 25 = 250
    squares: [1, 4, 9, 16, 25, 36]
    called back: 100 - 40 = 60
    1 / 0 failed: division by zero
    the order they began in: ['urgent', 'usual', 'can wait']
    M+ 5 on a line that breaks: 10 in memory, for it was sent again
    M+ 5 once, on a line that breaks: 5 in memory, and the caller knows: the calculator hung up
    12 tasks answered, 2 failed, 1 further attempt
"""
# ruff: noqa: E402 (an application patches before it imports anything else)

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import operator
import socket
from typing import Any

import gevent
from gevent.event import Event
from gevent.server import StreamServer

from gtasker import Priority, Runner, Task

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


class Calculator(StreamServer):
    """A server that answers lines like "10 * 25" by a number, and adds to its one memory on "M+ 5"."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        super().__init__(listener, self.serve)
        self.port: int = listener.getsockname()[1]
        self.memory = 0
        self.breaks_next = False

    def serve(self, peer: socket.socket, address: Any) -> None:
        """Answer one connection's questions until it is closed."""
        with peer, peer.makefile("r") as questions:
            for question in questions:
                gevent.sleep(0.02)
                try:
                    answer = str(self.calculate(*question.split()))
                except ZeroDivisionError:
                    answer = "error: division by zero"
                if self.breaks_next:
                    # The worst moment: the work is done, and its caller will never hear of it.
                    self.breaks_next = False
                    return
                peer.sendall(f"{answer}\n".encode())

    def calculate(self, *words: str) -> int:
        """Work out one line."""
        if words[0] == "M+":
            self.memory += int(words[1])
            return self.memory
        left, sign, right = words
        result: int = SIGNS[sign](int(left), int(right))
        return result


class Line:
    """A connection to the calculator: the resource."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._answers = self._socket.makefile("r")

    def ask(self, question: str) -> int:
        """Return the calculator's answer. A sum that cannot be done is an ArithmeticError, a broken line an OSError."""
        self._socket.sendall(f"{question}\n".encode())
        answer = self._answers.readline().strip()
        if not answer:
            raise ConnectionResetError("the calculator hung up")
        if answer.startswith("error: "):
            raise ArithmeticError(answer.removeprefix("error: "))
        return int(answer)

    def close(self) -> None:
        """Hang up."""
        self._answers.close()
        self._socket.close()


def answers(runner: Runner[Line]) -> None:
    """Three ways to get an answer: wait for it, hold a handle, be called back. The resource is the first argument."""
    print("10 * 25 =", runner.queue_task(Line.ask, "10 * 25"))

    tasks = [runner.submit(Line.ask, f"{number} * {number}") for number in range(1, 7)]
    print("squares:", [task.get() for task in tasks])

    called = Event()

    def tell(task: Task[int]) -> None:
        print("called back: 100 - 40 =", task.value)
        called.set()

    runner.submit(Line.ask, "100 - 40", callback=tell)
    called.wait()

    # The task's own exception, as if it had been called here. The connection is none the worse, and stays.
    try:
        runner.queue_task(Line.ask, "1 / 0")
    except ArithmeticError as error:
        print("1 / 0 failed:", error)


def priorities(runner: Runner[Line]) -> None:
    """Who goes first when several wait: by priority, then by arrival."""
    began: list[str] = []

    def note_and_ask(line: Line, name: str) -> int:
        began.append(name)
        return line.ask("1 + 1")

    runner.pause()
    tasks = [
        runner.submit(note_and_ask, "can wait", priority=Priority.LOW),
        runner.submit(note_and_ask, "usual"),
        runner.submit(note_and_ask, "urgent", priority=Priority.HIGH),
    ]
    runner.resume()
    gevent.wait(tasks)
    print("the order they began in:", began)


def twice_or_once(runner: Runner[Line], calculator: Calculator) -> None:
    """A line that breaks is replaced, and its task tried again: wrong for a task that may not have its effect twice."""
    calculator.breaks_next = True
    memory = runner.queue_task(Line.ask, "M+ 5")
    print(f"M+ 5 on a line that breaks: {memory} in memory, for it was sent again")

    calculator.memory, calculator.breaks_next = 0, True
    try:
        runner.queue_task_once(Line.ask, "M+ 5")
    except ConnectionError as error:
        memory = calculator.memory
        print(f"M+ 5 once, on a line that breaks: {memory} in memory, and the caller knows: {error}")


def main() -> None:
    """Ask a calculator all sorts of things over two connections."""
    calculator = Calculator()
    calculator.start()
    runner: Runner[Line] = Runner(
        on_create=lambda: Line(calculator.port),
        on_destroy=Line.close,
        check_health=lambda error: not isinstance(error, OSError),
        worker_count=2,
    )
    with runner:
        answers(runner)
        priorities(runner)
        twice_or_once(runner, calculator)
    told = runner.metrics()
    print(
        f"{told.total_tasks_completed} tasks answered, {told.total_tasks_failed} failed, "
        f"{told.total_tasks_retried} further attempt"
    )
    calculator.stop()


if __name__ == "__main__":
    main()
