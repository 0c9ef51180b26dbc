import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.mini import dataset
from recipes.mini.compose import STYLES
from recipes.mini.dataset import PACKAGES, Concept

RED = '<rect x="0" y="0" width="4" height="8" fill="#f00"/>'


def test_the_curated_list_is_well_formed() -> None:
    table = dataset.read_concepts()
    names = [each.name for each in table.values()]
    synonyms = [synonym for each in table.values() for synonym in each.synonyms]
    assert sum(each.first for each in table.values()) == 280
    assert len(table) == len(set(names)) >= 1000
    assert {"slice of pizza", "walking dog"} <= set(names)
    assert all(text == text.lower().strip() and "," not in text for text in names + synonyms)
    assert not set(names) & set(synonyms)
    assert len(set(synonyms)) == len(synonyms)
    assert all(code == dataset.plain_code(code) for code in table)


def test_packages_are_pinned_and_every_style_has_one() -> None:
    assert [package.style for package in PACKAGES if package.style] == list(STYLES)
    assert all(len(package.sha256) == 64 and package.licence for package in PACKAGES)


def archive(folder: Path, files: dict[str, bytes]) -> dataset.Package:
    package = replace(PACKAGES[0], name="@some/thing", version="1.0.0")
    with tarfile.open(folder / package.archive, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return replace(package, sha256=hashlib.sha256((folder / package.archive).read_bytes()).hexdigest())


def test_an_archive_is_read_only_if_it_is_the_pinned_one(tmp_path: Path) -> None:
    package = archive(tmp_path, {"a/b.json": b"{}", "c": b"x"})
    assert package.archive == "some-thing-1.0.0.tgz"
    assert dataset.read_archive(package, tmp_path) == {"a/b.json": b"{}", "c": b"x"}
    with pytest.raises(SystemExit, match=r"expected SHA-256 0000.* got " + package.sha256[:8]):
        dataset.read_archive(replace(package, sha256="0" * 64), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [package.archive]


def test_icons_are_drawn_to_scale_and_turned_copies_left_out() -> None:
    icons = {
        "chars.json": json.dumps({"1f600": "face", "1f601": "same", "1f602": "mirrored", "1f603": "small"}),
        "icons.json": json.dumps(
            {
                "width": 8,
                "height": 8,
                "icons": {"face": {"body": RED}, "small": {"body": RED, "width": 4, "height": 8}},
                "aliases": {"same": {"parent": "face"}, "mirrored": {"parent": "face", "hFlip": True}},
            }
        ),
    }
    files = {name: text.encode() for name, text in icons.items()}
    drawn = dataset.render_icons(files, {"1F600", "1F601", "1F602", "1F603", "1F604"})
    assert set(drawn) == {"1F600", "1F601", "1F603"}
    face = drawn["1F600"]
    assert face.shape == (dataset.SIDE, dataset.SIDE, 4)
    assert (face[:, :63] == [255, 0, 0, 255]).all()
    assert (face[:, 65:, 3] == 0).all()
    assert (drawn["1F601"] == face).all()
    assert (drawn["1F603"][:, 33:95, 3] == 255).all()  # half as wide, so in the middle


def test_the_held_out_sets_do_not_meet_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {
        "vae_concepts": ["thing 3", "thing 5"],
        "concept_style": [("thing 0", "noto"), ("thing 2", "flat")],
        "concept_background": [("thing 4", "red")],
    }
    monkeypatch.setattr(dataset, "read_heldout", lambda: kept)
    rng = np.random.default_rng(2)
    concepts, drawn = [], {style: {} for style in STYLES}
    for k in range(12):
        code = f"{k:X}"
        concepts.append(
            Concept(
                code=code,
                name=f"thing {k}",
                label=f"Thing {k}",
                tags=(),
                synonyms=(),
                mass=False,
                group="objects",
                subgroup="tool",
                mini=k % 2 == 0,
                first=k % 4 == 0,
            )
        )
        for style in STYLES:
            drawn[style][code] = red(rng)
    del drawn["flat"]["1"]
    pixels, rows, heldout = dataset.assemble(concepts, drawn)
    assert heldout == kept
    assert len(pixels) == len(rows) == 12 * 4 - 1
    assert [row.row for row in rows] == list(range(len(rows)))
    held = {row.concept for row in rows if row.split == "vae_holdout"}
    assert held == set(kept["vae_concepts"])
    assert not held & {row.concept for row in rows if row.mini}
    assert {(r.concept, r.style) for r in rows if r.heldout_pair} == set(kept["concept_style"])
    assert all(row.recolourable == row.mini for row in rows)  # the others have no captions to change
    monkeypatch.setitem(kept, "vae_concepts", ["thing 4"])
    with pytest.raises(AssertionError, match="thing 4"):
        dataset.assemble(concepts, drawn)


def red(rng: np.random.Generator) -> np.ndarray:
    """Draw random reds on nothing: (128,128,4)."""
    block = rng.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    block[..., 1:3], block[..., 3] = block[..., 1:3] // 6, 255
    block[..., 0] |= 128
    block[rng.integers(0, 2, (4, 4), dtype=bool)] = 0
    block[0, 0] = (255, 0, 0, 255)
    return block.repeat(32, 0).repeat(32, 1)
