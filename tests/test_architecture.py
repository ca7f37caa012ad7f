"""The order of the rooms: each uses those before it, and none behind it."""

from __future__ import annotations

import ast
from pathlib import Path

import nat2

PACKAGE = Path(nat2.__file__).parent
FOUNDATIONS = (
    "errors", "wording", "environment", "validation", "seeds", "tables", "files", "allocator", "contention", "progress",
    "download", "launcher", "peers", "processes",
)  # fmt: skip
"""Modules that any room may use, each after those that it uses."""
ROOMS = (
    "space",
    "testing",
    "shipped",
    "data",
    "supernet",
    "training",
    "nas",
    "deploy",
    "runs",
    "reports",
    "pipeline",
    "cli",
)
"""Folders, each after those that it uses."""
TOP = ("__init__", "__main__")
"""The public names and the command, which use everything."""
ORDER = (*FOUNDATIONS, *ROOMS, *TOP)


def imports() -> list[tuple[str, str, str]]:
    """Every import within the package: file, the place it is in, the place that it uses."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.level, f"{path}: imports are absolute"
                modules = [f"nat2.{each.name}" for each in node.names] if node.module == "nat2" else [node.module]
            found += [(str(path), place, each.split(".")[1]) for each in modules if each.startswith("nat2.")]
    return found


def test_every_module_has_its_place() -> None:
    places = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert places == set(ORDER)


def test_no_import_points_back_up() -> None:
    known = {place: number for number, place in enumerate(ORDER)}
    upward = [
        f"{path}: {place} uses {used}"
        for path, place, used in imports()
        if used in known and used != place and known[used] > known[place]
    ]
    assert not upward, "\n".join(upward)


def test_no_two_modules_import_each_other() -> None:
    """Within a room too: a cycle of imports has no beginning to read from."""
    uses: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("nat2", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        uses[name] = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    remaining = {name: {used for used in names if used in uses and used != name} for name, names in uses.items()}
    while free := {name for name, names in remaining.items() if not names}:
        remaining = {name: names - free for name, names in remaining.items() if name not in free}
    assert not remaining, remaining
