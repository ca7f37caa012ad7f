"""Converters and runtimes of devices, each in a process of its own.

They take seconds to import, print, warn, clash with each other and sometimes crash; none of that reaches nat2.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from nat2.errors import ConfigError


def check_installed(module: str, extra: str) -> None:
    """Raise if a package is not installed.

    Args:
        module: Its name when it is imported.
        extra: The extra of nat2 that installs it, which is also the name of the target that needs it.

    Raises:
        ConfigError: naming the extra.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"the target {extra} measures what it writes with {module}, which is not installed; install it with "
            f"pip install 'nat2[{extra}]'"
        )


def run_script(script: Path, *words: str) -> str:
    """Run a script with this Python; returns why it failed, or nothing if it did not."""
    done = subprocess.run([sys.executable, "-P", str(script), *words], capture_output=True, check=False)
    if not done.returncode:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
