"""Build the picture set of sfumato-mini from published packages of emoji art.

    python -m recipes.mini.dataset OUT_DIR [--packages DIR]

writes sprites.npy (N,128,128,4), index.jsonl (one row a sprite) and dataset.json (versions, licences, counts,
held-out lists). The packages come through `npm pack`, or from DIR where their archives already lie; each is
checked against its SHA-256 before it is read. Nothing is unpacked to disk.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from recipes.mini.colours import COLOURS, dominant_hue
from recipes.mini.compose import STYLES, Row
from recipes.mini.heldout import read_heldout

SIDE = 128
CONCEPTS = Path(__file__).with_name("concepts.txt")
GROUPS = {0, 1, 3, 4, 5, 6, 7}  # no components (2), symbols (8), flags (9)
LATER = "# -- added for the second model"
SHAPES = 96  # subgroup of plain coloured shapes, the only symbols kept


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned archive of the npm registry."""

    name: str
    version: str
    sha256: str
    licence: str  # of the art or text taken from it
    source: str  # whose work it is
    style: str | None = None

    @property
    def archive(self) -> str:
        """The file name `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        name="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        licence="MIT",
        source="Miles Johnson, emojibase (labels and tags)",
    ),
    Package(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        licence="MIT",
        source="Microsoft, Fluent Emoji (3D)",
        style="3d",
    ),
    Package(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        source="Microsoft, Fluent Emoji (flat)",
        style="flat",
    ),
    Package(
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        source="Google, Noto Emoji",
        style="noto",
    ),
    Package(
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        licence="CC-BY-4.0",
        source="Twitter and contributors, Twemoji",
        style="twemoji",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One thing to draw: its code without variation selectors, and how it is called."""

    code: str
    name: str
    label: str
    tags: tuple[str, ...]
    synonyms: tuple[str, ...]
    mass: bool
    group: str
    subgroup: str
    mini: bool
    first: bool


@dataclass(frozen=True, kw_only=True)
class Named:
    """How the curated list calls a thing."""

    name: str
    synonyms: tuple[str, ...]
    mass: bool  # said without an article
    first: bool  # drawn since the first model


def plain_code(code: str) -> str:
    """Upper-case a hyphenated code point sequence and drop the emoji variation selector."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def read_archive(package: Package, folder: Path | None) -> dict[str, bytes]:
    """Give the files of a package by their path inside it.

    Args:
        package: what to read.
        folder: where archives may already lie; None or not there = fetched with `npm pack`.

    Raises:
        SystemExit: it cannot be fetched, or its bytes are not the pinned ones.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = (folder or Path()) / package.archive
        if folder is None or not path.is_file():
            if shutil.which("npm") is None:
                raise SystemExit(
                    f"npm is needed to fetch {package.archive}; install it or give --packages DIR"
                )
            command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
            try:
                subprocess.run(command, cwd=temporary, check=True, stdout=subprocess.DEVNULL)
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"{' '.join(command)} ended with code {error.returncode}") from error
            path = Path(temporary) / package.archive
        data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{path.name}: expected SHA-256 {package.sha256}, got {found}; fetch it again")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None:
                files[member.name.partition("/")[2]] = stream.read()
    return files


def read_concepts(path: Path = CONCEPTS) -> dict[str, Named]:
    """Read the curated list: code → what it is called."""
    table = {}
    first = True
    for line in path.read_text("utf-8").splitlines():
        first = first and not line.startswith(LATER)
        if not line or line.startswith("#"):
            continue
        code, name, synonyms, kind = [*line.split("\t"), "", ""][:4]
        several = tuple(s.strip() for s in synonyms.split(",") if s.strip())
        table[code] = Named(name=name, synonyms=several, mass=kind == "mass", first=first)
    return table


def pictorial(files: dict[str, bytes]) -> list[Concept]:
    """List what is drawn: no flags, lettering, keycaps, components, skin tones, families."""
    entries = json.loads(files["en/data.json"])
    groups = json.loads(files["meta/groups.json"])
    curated = read_concepts()
    taken = {named.name for named in curated.values()}
    concepts = []
    for entry in sorted(entries, key=lambda e: e.get("order", 0)):
        group, subgroup = entry.get("group"), entry.get("subgroup")
        if group not in GROUPS and subgroup != SHAPES:
            continue
        subgroup_name = groups["subgroups"][str(subgroup)]
        if subgroup_name == "family":
            continue
        code, label = plain_code(entry["hexcode"]), entry["label"]
        name = label.lower()
        if name in taken:  # "cat" is the curated cat face, not the whole cat
            name = f"whole {name}"
        named = curated.get(code, Named(name=name, synonyms=(), mass=label.endswith("s"), first=False))
        concepts.append(
            Concept(
                code=code,
                **asdict(named),
                label=label,
                tags=tuple(entry.get("tags", ())[:6]),
                group=groups["groups"][str(group)],
                subgroup=subgroup_name,
                mini=code in curated,
            )
        )
    missing = set(curated) - {concept.code for concept in concepts}
    assert not missing, f"codes in {CONCEPTS.name} that are not pictorial: {sorted(missing)}"
    return concepts


def render_icons(files: dict[str, bytes], codes: set[str]) -> dict[str, NDArray[np.uint8]]:
    """Draw the icons of an Iconify package at SIDE pixels: code → (SIDE,SIDE,4)."""
    names = {plain_code(code): name for code, name in json.loads(files["chars.json"]).items()}
    table = json.loads(files["icons.json"])
    pictures = {}
    for code in sorted(codes & names.keys()):
        icon = table["icons"].get(names[code])
        if icon is None:  # an alias: a turned or mirrored copy, or another name of a hidden icon
            alias = table["aliases"][names[code]]
            if alias.keys() - {"parent", "hidden"}:
                continue
            icon = table["icons"][alias["parent"]]
        width, height = (icon.get(key, table.get(key, 16)) for key in ("width", "height"))
        left, top = icon.get("left", 0), icon.get("top", 0)
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
        )
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, dpi=96))
        pictures[code] = squared(Image.open(io.BytesIO(png)))
    return pictures


def squared(image: Image.Image) -> NDArray[np.uint8]:
    """Fit an image into a transparent square of SIDE pixels: (SIDE,SIDE,4), not premultiplied."""
    image = image.convert("RGBA")
    if image.width != image.height:
        canvas = Image.new("RGBA", (max(image.size),) * 2)
        canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
        image = canvas
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def decode_pictures(files: dict[str, bytes], codes: set[str]) -> dict[str, NDArray[np.uint8]]:
    """Decode the WebP files that are named by code: code → (SIDE,SIDE,4)."""
    paths = {plain_code(Path(name).stem): name for name in sorted(files) if name.endswith(".webp")}
    return {
        code: squared(Image.open(io.BytesIO(files[paths[code]]))) for code in sorted(codes & paths.keys())
    }


def draw_styles(
    archives: dict[str, dict[str, bytes]], codes: set[str]
) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """Draw every code in every style; the 3D set is cut to the codes of its publisher's own list."""
    published = {plain_code(code) for code in json.loads(archives["flat"]["chars.json"])}
    drawn = {"3d": decode_pictures(archives["3d"], codes & published)}
    for style in STYLES[1:]:
        drawn[style] = render_icons(archives[style], codes)
    return drawn


def assemble(
    concepts: list[Concept], drawn: dict[str, dict[str, NDArray[np.uint8]]]
) -> tuple[NDArray[np.uint8], list[Row], dict[str, Any]]:
    """Put pictures and rows in order, marked by what heldout.json says."""
    heldout = read_heldout()
    everywhere = set.intersection(*(set(pictures) for pictures in drawn.values()))
    missing = [concept.name for concept in concepts if concept.mini and concept.code not in everywhere]
    assert not missing, f"not drawn in every style: {missing}"
    unknown = set(heldout["vae_concepts"]) - {c.name for c in concepts if not c.mini}
    assert not unknown, f"kept out, but not among the labels: {sorted(unknown)}"
    held = {(name, style) for name, style in heldout["concept_style"]}
    words = {*COLOURS, "brown", "golden"}
    pictures: list[NDArray[np.uint8]] = []
    rows: list[Row] = []
    for concept in concepts:
        for style in STYLES:
            picture = drawn[style].get(concept.code)
            if picture is None:
                continue
            fields = {key: value for key, value in asdict(concept).items() if key != "name"}
            rows.append(
                Row(
                    **fields,
                    row=len(rows),
                    concept=concept.name,
                    style=style,
                    split="vae_holdout" if concept.name in heldout["vae_concepts"] else "train",
                    heldout_pair=(concept.name, style) in held,
                    recolourable=concept.mini
                    and not words & set(concept.name.split())
                    and dominant_hue(picture) is not None,
                )
            )
            pictures.append(picture)
    return np.stack(pictures), rows, heldout


def build(out: Path, packages: Path | None) -> dict[str, Any]:
    """Build the data set into a folder, and give what dataset.json says."""
    archives: dict[str, dict[str, bytes]] = {}
    for package in PACKAGES:
        archives[package.style or "labels"] = read_archive(package, packages)
    concepts = pictorial(archives["labels"])
    drawn = draw_styles(archives, {concept.code for concept in concepts})
    pixels, rows, heldout = assemble(concepts, drawn)
    info = {
        "sprites": len(rows),
        "concepts": len({row.concept for row in rows}),
        "mini_concepts": len({row.concept for row in rows if row.mini}),
        "by_style": {style: sum(row.style == style for row in rows) for style in STYLES},
        "sprites_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "packages": [asdict(package) for package in PACKAGES],
        "heldout": heldout,
    }
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "sprites.npy", pixels)
    lines = [json.dumps(asdict(row), ensure_ascii=False) for row in rows]
    (out / "index.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (out / "dataset.json").write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return info


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m recipes.mini.dataset", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--packages", type=Path, help="folder with archives that `npm pack` fetched earlier")
    arguments = parser.parse_args()
    info = build(arguments.out, arguments.packages)
    print(f"{info['sprites']} sprites of {info['concepts']} concepts in {arguments.out}")


if __name__ == "__main__":
    main()
