"""How long does a gallery of 100,000 pictures take to search, filter, page and compare?

    python -m benchmarks.gallery                         # some minutes; writes results/gallery.json
    python -m benchmarks.gallery --small                 # 1,000 pictures, nothing written
    python -m benchmarks.gallery --url postgresql://…    # another database, which must be empty

Prompts are drawn from words as frequent as in natural text; files are one picture under many names.
An answer is a page of 50 pictures, read whole, their files looked for. The figure is the median of `--runs`
answers in milliseconds; the exit code is 1 when one is above 100.
"""

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import timing
from sfumato.app.gallery import Gallery
from sfumato.app.gallery_order import Order
from sfumato.app.gallery_table import Entry, Filter
from sfumato.app.gallery_vectors import DIMENSIONS
from sfumato.app.storage import connect, sqlite_url

COUNT, SMALL, BATCH = 100_000, 1_000, 1_000  # pictures
TARGET = 100.0  # milliseconds
OWNERS, MODELS, SAMPLERS = ("ann", "bob"), 12, 20
WORDS = 5_000


def entries(count: int, outputs: Path, image: Image.Image) -> Iterator[Entry]:
    """Pictures, with a file each."""
    draw = random.Random(1)
    words = [f"word{number}" for number in range(WORDS)] + list("苹果红色桌子")
    weights = [1 / (place + 1) for place in range(len(words))]
    for number in range(count):
        file = f"{number // 1000:03d}/{number:06d}.png"
        first = outputs / f"{number // 1000:03d}/{number // 1000 * 1000:06d}.png"
        if number % 1000:
            os.link(first, outputs / file)
        else:
            first.parent.mkdir()
            image.save(first)
        prompt = " ".join(draw.choices(words, weights, k=40))
        negative = " ".join(draw.choices(words, weights, k=15))
        model, sampler = f"model{draw.randrange(MODELS)}", f"sampler{draw.randrange(SAMPLERS)}"
        yield Entry(
            owner=draw.choices(OWNERS, (9, 1))[0],
            file=file,
            sha256=f"{number:064x}",
            created=1.7e9 + number,
            width=512,
            height=draw.choice((512, 768)),
            seed=draw.randrange(2**32),
            model=model,
            sampler=sampler,
            prompt=prompt,
            negative=negative,
            infotext=f"{prompt}\nNegative prompt: {negative}\nSteps: 20, Sampler: {sampler}, Model: {model}",
            rest=f"Steps 20\nSampler {sampler}\nModel {model}",
            vector=draw.randbytes(DIMENSIONS),
        )


def fill(gallery: Gallery, count: int, image: Image.Image) -> None:
    """Take the pictures in, all of them one image; every hundredth is tagged, and rated."""
    batch: list[Entry] = []
    for number, entry in enumerate(entries(count, gallery.files.outputs, image), 1):
        batch.append(entry)
        if len(batch) == BATCH or number == count:
            for place, name in enumerate(gallery.add(*batch)):
                if place % 100 == 0:
                    gallery.change(name, tags=["best"], rating=1 + place // 100 % 5)
            batch.clear()


def questions(gallery: Gallery, count: int) -> dict[str, Callable[[], Any]]:
    """What is asked, by name."""

    def ask(
        before: int | None = None, owner: str | None = "ann", order: Order = "newest", **values: Any
    ) -> Callable[[], Any]:
        return lambda: gallery.search(Filter(**values), owner=owner, before=before, order=order)

    some = gallery.search(Filter(), owner="ann", limit=1).pictures[0]
    return {
        "first page": ask(),
        "page in the middle": ask(before=count // 2),
        "last page": ask(before=60),
        "everybody's first page": ask(owner=None),
        "common word": ask(text="word0"),
        "common word, deep page": ask(text="word0", before=count // 10),
        "rare word": ask(text=f"word{WORDS - 1}"),
        "two common words": ask(text="word1 word2"),
        "words in a row": ask(text='"word0 word1"'),
        "beginning of a word": ask(text="word12*"),
        "without a common word": ask(text="word3 -word0"),
        "word in the prompt alone": ask(text="word40", scope="prompt"),
        "Chinese word": ask(text="苹果"),
        "word that is not there": ask(text="nowhere"),
        "common word of the rarer owner": ask(text="word0", owner="bob"),
        "common word that no such picture has": ask(text="word0", width=1),
        "model": ask(model="model3"),
        "model and sampler": ask(model="model3", sampler="sampler4"),
        "seed": ask(seed=some.seed),
        "days": ask(since=1.7e9 + count * 0.2, until=1.7e9 + count * 0.2 + 100),
        "size": ask(width=512, height=768),
        "size that is not there": ask(width=1),
        "tag": ask(tags=["best"]),
        "rating": ask(rating=4),
        "word, model, rating": ask(text="word0", model="model3", rating=2),
        "similar": lambda: gallery.similar(some.id, owner="ann"),
        "similar, everybody's": lambda: gallery.similar(some.id),
        "where the pages of all begin": lambda: gallery.places(Filter(), owner="ann"),
        "where those of a word's begin": lambda: gallery.places(Filter(text="word0"), owner="ann"),
        "the best rated first": ask(order="rating"),
        "models, samplers, tags": lambda: gallery.values("ann"),
        "one picture": lambda: gallery.get(some.id, "ann"),
    }


def milliseconds(ask: Callable[[], Any], runs: int) -> float:
    """The median of some answers' times."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def measure(gallery: Gallery, count: int, runs: int) -> list[dict[str, Any]]:
    """Fill a gallery, and ask."""
    fill(gallery, count, Image.new("RGB", (64, 64), "red"))
    began = time.perf_counter()
    gallery.similar(gallery.search(Filter(), limit=1).pictures[0].id)
    rows: list[dict[str, Any]] = [
        {"name": "the vectors are read, once", "milliseconds": round((time.perf_counter() - began) * 1000, 1)}
    ]
    for name, ask in questions(gallery, count).items():
        figure = milliseconds(ask, runs)
        rows.append(
            {"name": name, "milliseconds": round(figure, 2), "target": TARGET, "met": figure <= TARGET}
        )
    return rows


def main() -> int:
    parser = timing.options(__doc__, runs=20)
    parser.add_argument("--url", help="of another database; unset = a file")
    chosen = parser.parse_args()
    began = timing.machine()
    count = SMALL if chosen.small else COUNT
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "outputs").mkdir()
        database = connect(chosen.url or sqlite_url(root / "gallery.sqlite"))
        rows = measure(Gallery(database, root / "outputs", root / "thumbnails"), count, chosen.runs)
        database.dispose()
    for row in rows:
        print(f"{row['name']:40} {row['milliseconds']:9.2f} ms")
    if not chosen.small and chosen.url is None:
        timing.write("gallery", began, [{**row, "pictures": count} for row in rows])
    return int(not all(row.get("met", True) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
