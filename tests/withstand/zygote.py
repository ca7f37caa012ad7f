"""A process that has imported everything and runs command lines in copies of itself, which can be killed.

Reads a JSON object a line: ``arguments`` of the command line; ``kill_after`` seconds; ``largest`` file that may be
written, in bytes; ``jumping`` for clocks that do. Answers with a line: exit code, output and errors.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

MODULES = (
    "nat2.cli", "nat2.pipeline.api", "onnxruntime", "lightgbm", "plotly.offline", "sklearn.datasets",
    "matplotlib.pyplot", "nat2.deploy.quantise",
)  # fmt: skip
"""What a run would import on its way."""
YEAR = 365 * 24 * 3600.0


def main() -> None:
    """Serve until the input ends."""
    warnings.filterwarnings("error", category=UserWarning)
    import torch

    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), file=answers, flush=True)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command line to its end, or kill it."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        child = os.fork()
        if child == 0:
            work(request, output, errors)
        pidfd = os.pidfd_open(child)
        ended, _, _ = select.select([pidfd], [], [], request.get("kill_after"))
        os.close(pidfd)
        if not ended:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {
            "code": code,
            "output": output.read_text() if output.exists() else "",
            "errors": errors.read_text() if errors.exists() else "",
        }


def work(request: dict[str, Any], output: Path, errors: Path) -> None:
    """What the copy does; it never returns."""
    code = 99
    try:
        for number, path in ((0, "/dev/null"), (1, output), (2, errors)):
            file = os.open(path, os.O_RDWR | os.O_CREAT)
            os.dup2(file, number)
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
