"""What is set before libraries are loaded, and what a run leaves on the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nat2.environment import SPIN_COUNT, available_cores, available_memory, set_defaults
from tests.tiny import RECIPE, write_corners


def test_threads_stop_spinning_unless_the_user_has_said_how_they_wait() -> None:
    unset: dict[str, str] = {}
    set_defaults(unset)
    assert unset["GOMP_SPINCOUNT"] == str(SPIN_COUNT)
    for name, value in (("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7")):
        chosen = {name: value}
        set_defaults(chosen)
        assert {key: chosen[key] for key in chosen if "TELEMETRY" not in key and "TRACK" not in key} == {name: value}


def test_users_may_allow_telemetry() -> None:
    chosen = {"ORT_DISABLE_TELEMETRY": "0", "HF_HUB_DISABLE_TELEMETRY": "0"}
    set_defaults(chosen)
    assert chosen["ORT_DISABLE_TELEMETRY"] == chosen["HF_HUB_DISABLE_TELEMETRY"] == "0"


def test_the_defaults_are_set_before_torch_is_loaded() -> None:
    script = "import nat2, os, sys; assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == str(SPIN_COUNT)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_threads_follow_the_share_of_the_processor() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import torch; torch.set_num_threads(4)\n"
        "from nat2.processes import connect; connect(accelerator='cpu'); print(torch.get_num_threads())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    for chosen, expected in (({}, "1"), ({"OMP_NUM_THREADS": "4"}, "4")):
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment | chosen, capture_output=True, text=True, check=True
        )
        assert ended.stdout.strip() == expected


def test_a_quota_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "LOKY_MAX_CPU_COUNT", "1"
    )  # how joblib takes a limit; it reads quotas of containers the same way
    assert available_cores() == 1


VERBS = (
    ("profile", "--config", "settings.yaml", "--data", "photos"),
    ("train", "--config", "settings.yaml", "--data", "photos", "--out", "run"),
    ("search", "run"),
    ("finetune", "run"),
    ("run", "run"),
    ("report", "run"),
    ("export", "run", "--to", "run-deploy", "--int8"),
    ("latency", "run", "--csv", "run/latency-here.csv"),
    ("predict", "NETWORK", "photos/north east/0.png"),
)


SCRIPT = """
import json, pathlib, sys
from nat2.cli import main
for words in json.loads(sys.argv[1]):
    network = next(pathlib.Path().glob("run/networks/*"), "")
    try:
        main([str(network) if word == "NETWORK" else word for word in words])
    except SystemExit as ended:
        assert ended.code == 0, words
"""


def test_no_command_contacts_anybody_or_writes_outside_its_folder(tmp_path: Path) -> None:
    """Every verb, one after the other, with an empty home; traced where `strace` is there."""
    home, place, trace = tmp_path / "home", tmp_path / "place", tmp_path / "trace"
    home.mkdir()
    write_corners(place / "photos")
    (place / "settings.yaml").write_text(yaml.safe_dump(RECIPE))
    before = contents(place)
    ours = re.compile("ORT_|HF_|DO_NOT_TRACK|XDG_|MPL|OMP_")
    environment = {key: value for key, value in os.environ.items() if not ours.match(key)}
    environment |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, "-c", SCRIPT, json.dumps(VERBS)]
    if shutil.which("strace"):
        line = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace), *line]
    ended = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    assert contents(home) == set()
    assert {name for name in contents(place) if not name.startswith("run")} == before
    if trace.exists():
        assert not re.findall(r".*AF_INET.*", trace.read_text())


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def machine(root: Path, groups: str, files: dict[str, str | int]) -> Path:
    """A machine with 8,000 kB available, as its processes see it."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    8000 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


V1, V2 = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n", "0::/a/b\n"
STAT = "anon 5\ninactive_file 50\ntotal_inactive_file 70"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 8000 * 1024),
        (V2, {"a/b/memory.max": "max", "a/b/memory.current": 10}, 8000 * 1024),
        (V2, {"a/b/memory.max": 1000, "a/b/memory.current": 300}, 700),
        (V2, {"a/b/memory.max": 1000, "a/b/memory.current": 300, "a/b/memory.stat": STAT}, 750),
        (V2, {"a/b/memory.max": "max", "a/b/memory.high": 900, "a/b/memory.current": 300}, 600),
        (V2, {"a/memory.max": 1000, "a/memory.current": 990, "a/b/memory.max": 900, "a/b/memory.current": 5}, 10),
        (V2, {"memory.max": 1000, "memory.current": 400}, 600),  # in a container, which does not see the host's path
        (V2, {"a/b/memory.max": 1000, "a/b/memory.current": 2000}, 0),
        (V2, {"a/b/memory.max": "damaged", "a/b/memory.current": 2000}, 8000 * 1024),
        (V1, {"memory/a/b/memory.limit_in_bytes": 1000, "memory/a/b/memory.usage_in_bytes": 300,
              "memory/a/b/memory.stat": STAT}, 770),
        (V1, {"memory/memory.limit_in_bytes": 1000, "memory/memory.usage_in_bytes": 300}, 700),
        (V1, {"memory/a/b/memory.limit_in_bytes": 9223372036854771712, "memory/a/b/memory.usage_in_bytes": 5},
         8000 * 1024),
    ],
)  # fmt: skip
def test_memory_is_what_the_machine_and_every_control_group_leave(
    tmp_path: Path, groups: str, files: dict[str, str | int], expected: int
) -> None:
    assert available_memory(machine(tmp_path, groups, files)) == expected


def test_this_machine_has_memory() -> None:
    assert 2**20 < available_memory() < 2**50
    assert available_memory(Path("/nowhere")) > 2**20
