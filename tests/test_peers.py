"""A lost process is noticed in a documented time, by those that compute and by those that wait; a slow one is not."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed import HashStore  # type: ignore[attr-defined]

from nat2 import peers
from nat2.errors import LostProcessError
from nat2.peers import Peers
from tests.tiny import SETTINGS, write_corners
from tests.zygote import Ended, Zygote

TIMEOUT = 1.0


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_GRACE", 0.1)


class Team:
    """Processes of a run, here in one, each with a thread for what its main thread would do."""

    def __init__(self, size: int, store: Any = None) -> None:
        self.ends: dict[int, list[str]] = {rank: [] for rank in range(size)}
        store = store or HashStore()
        self.members = [Peers(store, rank, size, timeout=TIMEOUT, end=self.ends[rank].append) for rank in range(size)]
        self.together([each.watch for each in self.members])

    @staticmethod
    def together(works: list[Callable[[], object]]) -> list[Exception | None]:
        """Do all at once; what each has raised."""
        raised: list[Exception | None] = [None] * len(works)

        def do(number: int) -> None:
            try:
                works[number]()
            except LostProcessError as error:
                raised[number] = error

        threads = [threading.Thread(target=do, args=(number,)) for number in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        return raised

    def vanish(self, rank: int) -> None:
        """Let a process fall silent."""
        self.members[rank]._stopped.set()

    def leave(self) -> None:
        assert self.together([each.leave for each in self.members]) == [None] * len(self.members)


def test_a_slow_process_is_waited_for_and_all_leave_together() -> None:
    team, order = Team(3), list[str]()

    def slow() -> None:
        time.sleep(2.5 * TIMEOUT)
        order.append("slow arrived")
        team.members[2].meet()

    def quick(rank: int) -> None:
        team.members[rank].meet()
        order.append("quick went on")

    assert team.together([lambda: quick(0), lambda: quick(1), slow]) == [None] * 3
    assert order == ["slow arrived", "quick went on", "quick went on"]
    team.leave()
    time.sleep(2 * TIMEOUT)
    assert team.ends == {0: [], 1: [], 2: []}


def test_a_silent_process_is_named_in_time_by_one_of_the_others() -> None:
    team = Team(3)
    team.vanish(1)
    began = time.monotonic()
    raised = team.together([team.members[0].meet, lambda: None, team.members[2].meet])
    assert 0.7 * TIMEOUT < time.monotonic() - began < 3 * TIMEOUT  # on a busy machine
    errors = [raised[0], raised[2]]
    assert all(isinstance(each, LostProcessError) for each in errors)
    assert [each.reported for each in errors if isinstance(each, LostProcessError)].count(False) == 1
    assert f"process 1 on {socket.gethostname()} (counted from 0, of 3) did not answer for 1 seconds" in str(errors[0])
    assert "give the same command again to continue" in str(errors[0])


def test_a_process_that_computes_is_ended_too_and_the_message_comes_once() -> None:
    team = Team(3)
    team.vanish(2)
    until = time.monotonic() + 10 * TIMEOUT
    while not (team.ends[0] and team.ends[1]) and time.monotonic() < until:
        time.sleep(0.05)
    assert sorted([*team.ends[0], *team.ends[1]])[0] == ""
    assert "process 2" in sorted([*team.ends[0], *team.ends[1]])[1]


def test_the_others_learn_what_ended_a_process() -> None:
    team = Team(2)
    team.members[1].leave(ValueError("the disk of this machine is full"))
    (error, _) = team.together([team.members[0].meet, lambda: None])
    assert "process 1" in str(error)
    assert str(error).endswith("ended with an error: the disk of this machine is full")


class Unanswering(HashStore):
    """A store whose machine is gone: calls fail, or never return."""

    down = ""

    def multi_get(self, keys: list[str]) -> Any:
        if self.down == "hangs":
            time.sleep(1e3)
        if self.down:
            raise RuntimeError("Connection reset by peer. This is typical")
        return super().multi_get(keys)

    def add(self, key: str, count: int) -> Any:
        if self.down:
            raise RuntimeError("Connection reset by peer. This is typical")
        return super().add(key, count)


@pytest.mark.parametrize("down", ["fails", "hangs"])
def test_a_store_that_is_gone_ends_all(down: str) -> None:
    store = Unanswering()
    team = Team(2, store)
    store.down = down
    began = time.monotonic()
    while not (team.ends[0] and team.ends[1]) and time.monotonic() - began < 10 * TIMEOUT:
        time.sleep(0.05)
    assert all("the store at" in message for ends in team.ends.values() for message in ends)
    assert team.ends[0]
    assert team.ends[1]


def test_a_connection_that_breaks_is_an_error_in_words() -> None:
    team = Team(1)
    with (
        pytest.raises(LostProcessError, match=r"broke \(Read error: reset by peer\)\. What was computed is kept"),
        team.members[0].connected(),
    ):
        raise RuntimeError("Read error: reset by peer. This is typically caused by\na long story")
    team.vanish(0)


# -- whole runs, on two "machines" without a launcher


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    found = Zygote()
    yield found
    found.close()


def begin(zygote: Zygote, place: Path, *words: str) -> list[Path]:
    """Start a command line in two processes; the files with their numbers."""
    with closing(socket.socket()) as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together, files = [], []
    for rank in range(2):
        variables: dict[str, object] = {"RANK": rank, "NODE_RANK": rank, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        variables |= {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        environment = {name: str(value) for name, value in variables.items()}
        files.append(place / f"pid {port} {rank}")
        together.append({"environment": environment, "pid_file": str(files[-1])})
    zygote.begin(*words, together=together)
    return files


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> float:
    """Until it holds; how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def signal_to(file: Path, number: signal.Signals) -> None:
    os.kill(int(file.read_text()), number)


def has_ended(file: Path) -> bool:
    try:
        return Path("/proc", file.read_text(), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def rows(archive: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{archive}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM evaluations").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


def the_message(survivor: Ended) -> str:
    """What a process says that ends because another is gone."""
    assert survivor.code == 2, survivor
    assert "Traceback" not in survivor.errors
    (line,) = [line for line in survivor.errors.splitlines() if line.startswith("nat2: ")]
    assert "give the same command again to continue" in line
    return line


def test_a_machine_that_is_lost_ends_the_run_and_the_same_command_continues_it(zygote: Zygote, tmp_path: Path) -> None:
    """The second is stopped in mid-training; later the first, whose store connects them, is killed while evaluating."""
    settings = {**SETTINGS, "phases": [{**SETTINGS["phases"][1], "epochs": 8}], "pretrained": "none"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"
    words = ["search", "--config", str(tmp_path / "settings.yaml"), "--data", str(write_corners(tmp_path / "images"))]
    words += ["--sync_batch_norm", "per-process", "--checkpoint_seconds", "0", "--process_timeout", "10"]
    words += ["--out", str(run)]

    first, second = begin(zygote, tmp_path, *words)
    wait_for(lambda: any((run / "state").glob("*previous*")))
    signal_to(second, signal.SIGSTOP)
    assert wait_for(lambda: has_ended(first)) < 60  # 10 seconds, and 5 to end in order; on a busy machine
    signal_to(second, signal.SIGKILL)
    line = the_message(zygote.end_all()[0])
    assert f"process 1 on {socket.gethostname()} (counted from 0, of 2) did not answer for 10 seconds" in line

    first, second = begin(zygote, tmp_path, *words)
    wait_for(lambda: rows(run / "archive.db") > 0)
    signal_to(first, signal.SIGKILL)
    killed, survivor = zygote.end_all()
    assert killed.code == -signal.SIGKILL
    the_message(survivor)
    before = rows(run / "archive.db")

    begin(zygote, tmp_path, *words)
    assert [each.code for each in zygote.end_all()] == [0, 0]
    assert rows(run / "archive.db") > before >= 8  # a round of two processes is written at once
