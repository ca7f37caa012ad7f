"""Names of classes that look or are spelled alike."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from nat2.data.listing import list_folder
from tests.data.trees import counted, many, tree

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_two_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *many(f"{NFC} {NFD} bar", 2)))
    assert counted(listing) == {"all": {"bar": 2, NFC: 4}}
    assert listing.notes == (
        "folders whose names differ only in Unicode normalisation (NFC, NFD) are read as one class: café",
    )


@pytest.mark.parametrize("path", ["train/{} test/{} train/bar test/bar", "{}/train {}/test bar/train bar/test"])
def test_splits_may_spell_a_class_in_two_unicode_forms(path: str, tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *many(path.format(NFC, NFD))))
    assert counted(listing) == {"train": {"bar": 1, NFC: 1}, "test": {"bar": 1, NFC: 1}}
    assert "read as one class: café" in listing.notes[-1]


@pytest.mark.parametrize(
    "pair",
    [("Cat", "cat"), ("cat", "cat "), ("polar bear", "polar_bear"), ("hot dog", "hot  dog"), ("cat", "cat\u200b")],
)
def test_names_that_look_the_same_are_told(pair: tuple[str, str], tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *(f"{name}/1.png" for name in (*pair, "owl"))))
    assert set(listing.classes) == {*pair, "owl"}
    assert "differ only in case, spaces or underscores are read as different classes" in listing.notes[0]
    assert repr(pair[1]) in listing.notes[0]
