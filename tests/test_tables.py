"""Lists that show themselves."""

from __future__ import annotations

from pathlib import Path

from nat2.nas.archive import Evaluation
from nat2.reports.return_values import Front, Results, Supernets
from nat2.runs.results import Result
from nat2.space import Arch

ARCH = "r16-w0.25-k3e3.k3e3-k3e3.k3e3"


def result(name: str) -> Result:
    return Result(id=name, arch=ARCH, error=0.1, params=12345, macs=678, inherited_val_accuracy=0.5,
        calibrated_val_accuracy=0.5, val_accuracy=0.914, test_accuracy=0.9, finetune_epochs=1)  # fmt: skip


def test_results_are_a_table_of_aligned_columns() -> None:
    shown = repr(Results([result("1a2b3c4d"), result("<b>")])).splitlines()
    assert shown[0].split() == ["network", "pixels", "params", "MACs", "validation", "%", "test", "%"]
    assert shown[1].split() == ["1a2b3c4d", "16", "12,345", "678", "91.4", "90.0"]
    assert len({len(line) for line in shown}) == 1
    html = Results([result("<b>")])._repr_html_()
    assert "<td>&lt;b&gt;</td>" in html
    assert html.count("<tr>") == 2


def test_a_front_and_files_show_what_they_are(tmp_path: Path) -> None:
    arch = Arch.from_key(ARCH)
    front = Front([Evaluation(arch, {"error": 0.25, "params": 5882.0})])
    assert repr(front).splitlines()[1].split() == [arch.id, "16", "25.0", "%", "5,882"]
    (tmp_path / "a.safetensors").write_bytes(bytes(2_500_000))
    assert "2.5" in repr(Supernets([tmp_path / "a.safetensors"]))
    assert "missing" in repr(Supernets([tmp_path / "b.safetensors"]))
    assert repr(Results()) == "[]"
    assert Results([result("a")]) == [result("a")]
