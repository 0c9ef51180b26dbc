"""What owners' files take is written down, bounded, and given back with the files."""

import pytest
import sqlalchemy as sa
from PIL import Image

from sfumato.app.engine import Engine
from sfumato.app.gallery_table import Filter
from sfumato.app.settings import Settings
from sfumato.app.space import Space
from sfumato.app.storage import METADATA
from sfumato.errors import QuotaError
from sfumato.types import Canvas, Request, Sampling


def test_the_book_is_each_owners_own(database: sa.Engine) -> None:
    METADATA.create_all(database)
    book = Space(database, 100)
    book.take("ann", "a", 60)
    book.take("ann", "a", 70)  # the same file, made again
    book.take("bob", "a", 100)
    assert (book.used("ann"), book.used("bob"), book.used("eve")) == (70, 100, 0)
    with pytest.raises(QuotaError, match="would take 101 bytes, 100 are allowed"):
        book.take("ann", "b", 31)
    assert book.used("ann") == 70
    book.take("ann", "b", 30)
    with pytest.raises(QuotaError):
        book.check("ann")
    assert not book.leave("ann", "a")  # bob has it
    assert book.leave("bob", "a")
    book.check("ann")
    Space(database, None).take("ann", "c", 10**12)


def test_a_job_that_fills_its_owners_share_keeps_what_fits_and_an_emptied_trash_gives_room(
    settings: Settings,
) -> None:
    wanted = Request(sampling=Sampling(steps=1), canvas=Canvas(seed=1, width=32, height=32, batch_count=3))
    with Engine(settings) as engine:
        first = engine.wait(engine.submit(wanted, owner="ann", key="first").id, 60)
        sizes = [(settings.outputs / made.file).stat().st_size for made in first.made]
        assert engine.space.used("ann") == sum(sizes)
    with Engine(settings.model_copy(update={"quota": sum(sizes) + sizes[0]})) as engine:
        second = engine.wait(engine.submit(wanted, owner="ann").id, 60)
        assert second.fault is not None
        assert (second.fault.code, len(second.made)) == ("quota", 1)
        assert len([path for path in settings.outputs.rglob("*") if path.is_file()]) == 4
        with pytest.raises(QuotaError):
            engine.submit(wanted, owner="ann")
        assert engine.submit(wanted, owner="ann", key="first").id == first.id
        with pytest.raises(QuotaError):
            engine.keep(Image.new("RGB", (8, 8)), "ann")
        assert not engine.inputs.folder.exists()
        for made in engine.gallery.search(Filter(), owner="ann").pictures:
            engine.gallery.trash(made.id)
        with pytest.raises(QuotaError):  # what lies in the trash lies on the disk
            engine.space.check("ann")
        engine.gallery.empty_trash("ann")
        assert engine.space.used("ann") == 0
        assert engine.wait(engine.submit(wanted, owner="ann").id, 60).state == "done"
