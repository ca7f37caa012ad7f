"""A process that has imported everything and runs command lines in copies of itself, which can be killed.

It reads one JSON object per line: the ``arguments`` of the command line; ``kill_after`` so many seconds, or ``pause``
(0.3) seconds after the output holds ``kill_at``; the ``largest`` file that may be written, in bytes; ``jumping`` for
clocks that do. It answers with a line: exit code, output and errors. With ``together``, a list of ``environment`` and
``pid_file``, which will hold the number of the process, the command line runs in several processes at once, and the
answer is a list. `Zygote` talks to it.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = (
    "nat2.cli", "nat2.pipeline.api", "onnxruntime", "lightgbm", "plotly.offline", "sklearn.datasets",
    "matplotlib.pyplot", "nat2.deploy.quantise",
)  # fmt: skip
"""What a run would import on its way."""
YEAR = 365 * 24 * 3600.0
PAUSE = 0.3  # seconds between a line that is waited for and the kill: somewhere inside what comes next


@dataclass(frozen=True)
class Ended:
    """How a command line ended in a process of its own; its code is negative if a signal ended it."""

    code: int
    output: str
    errors: str


class Zygote:
    """Runs command lines in processes that need no time to import anything."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )
        assert self._read() == "ready\n"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def begin(self, *arguments: str, **options: Any) -> None:
        """Start a command line; `end` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, **options}) + "\n")
        self._process.stdin.flush()

    def end(self) -> Ended:
        """How the command line that was begun ended."""
        return Ended(**json.loads(self._read()))

    def end_all(self) -> list[Ended]:
        """How the processes of a command line that was begun `together` ended."""
        return [Ended(**each) for each in json.loads(self._read())]

    def run(self, *arguments: str, **options: Any) -> Ended:
        """Run a command line; the options are those of this module."""
        self.begin(*arguments, **options)
        return self.end()

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def main() -> None:
    """Serve until the input ends."""
    warnings.filterwarnings("error", category=UserWarning)
    import torch

    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(name)
    from nat2 import cli
    from nat2.cli.parser import build_parser

    cached = functools.cache(build_parser)
    vars(cli)["build_parser"] = cached
    cached()
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), file=answers, flush=True)


def serve(request: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
    """Run one command line to its end, or kill it."""
    if "together" in request:
        return serve_all(request)
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        child = os.fork()
        if child == 0:
            work(request, output, errors)
        pidfd = os.pidfd_open(child)
        if "kill_at" in request:
            ended = has_ended(pidfd, 0.02)
            while not ended and not (output.exists() and request["kill_at"] in output.read_text()):
                ended = has_ended(pidfd, 0.02)
            ended = ended or has_ended(pidfd, request.get("pause", PAUSE))
        else:
            ended = has_ended(pidfd, request.get("kill_after"))
        os.close(pidfd)
        if not ended:
            os.kill(child, signal.SIGKILL)
        return ended_as(child, output, errors)


def serve_all(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one command line in several processes, to their ends."""
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for number, each in enumerate(request["together"]):
            output, errors = Path(folder) / f"output {number}", Path(folder) / f"errors {number}"
            child = os.fork()
            if child == 0:
                work(request | each, output, errors)
            Path(each["pid_file"]).write_text(str(child))
            children.append((child, output, errors))
        return [ended_as(*each) for each in children]


def ended_as(child: int, output: Path, errors: Path) -> dict[str, Any]:
    """How a copy ends, and what it has written."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    written = [path.read_text() if path.exists() else "" for path in (output, errors)]
    return {"code": code, "output": written[0], "errors": written[1]}


def has_ended(pidfd: int, seconds: float | None) -> bool:
    """Whether a process ends within some seconds; None waits for its end."""
    return bool(select.select([pidfd], [], [], seconds)[0])


def work(request: dict[str, Any], output: Path, errors: Path) -> None:
    """What the copy does; it never returns."""
    code = 99
    try:
        for number, path in ((0, "/dev/null"), (1, output), (2, errors)):
            file = os.open(path, os.O_RDWR | os.O_CREAT)
            os.dup2(file, number)
        os.environ.update(request.get("environment", {}))
        if "largest" in request:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], request["largest"]))
        if request.get("jumping"):
            lot, clock = random.Random(0), time.time
            time.time = lambda: clock() + lot.choice((-30, -1, 0, 1, 30)) * YEAR
        from nat2.cli import main as nat2

        nat2(request["arguments"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
