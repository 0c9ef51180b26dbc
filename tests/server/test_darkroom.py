"""Pictures that clients send are decoded a few at a time, whatever their number."""

import base64
import io
import struct
import threading
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from starlette.testclient import TestClient

from sfumato.app.engine import Engine
from sfumato.errors import QueueFullError
from sfumato.server.app import create_app
from sfumato.server.darkroom import Darkroom

SIDE = 64


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


class Line(deque[object]):
    """Tells of everyone who comes to stand in it."""

    def __init__(self, room: Darkroom) -> None:
        super().__init__()
        self._room = room

    def append(self, turn: object) -> None:
        super().append(turn)
        self._room._free.notify_all()


def test_who_finds_no_room_is_sent_away_and_the_largest_has_it_alone() -> None:
    room = Darkroom(room=100, patience=0)
    with room.entered(60), room.entered(40), pytest.raises(QueueFullError), room.entered(1):
        pass
    with room.entered(10**9), pytest.raises(QueueFullError), room.entered(1):
        pass
    with room.entered(100):  # nothing is left taken
        pass


def test_a_large_picture_is_not_passed_by_small_ones() -> None:
    room, order = Darkroom(room=100), []
    room._line = Line(room)

    def enter(pixels: int) -> None:
        with room.entered(pixels):
            order.append(pixels)

    with ThreadPoolExecutor() as threads, room.entered(60):
        waiting = []
        for pixels in (90, 30):
            waiting.append(threads.submit(enter, pixels))
            with room._free:
                assert room._free.wait_for(lambda: len(room._line) == len(waiting), 60)
                room._free.notify_all()
        assert order == []  # 30 would fit, but came later
    assert order == [90, 30]


def test_fifty_uploads_at_once_are_decoded_four_at_a_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(engine)
    room = app.state.desk.darkroom
    room.room, room._line = 4 * SIDE * SIDE, Line(room)
    inside, most, read, crowded = 0, 0, room.decoder.picture, threading.Event()

    def counted(data: bytes) -> Image.Image:
        """Stay until twenty are here or stand in line."""
        nonlocal inside, most
        with room._free:
            inside += 1
            most = max(most, inside)
            assert room._free.wait_for(lambda: crowded.is_set() or inside + len(room._line) >= 20, 60)
            crowded.set()
            room._free.notify_all()
        try:
            return read(data)
        finally:
            with room._free:
                inside -= 1

    monkeypatch.setattr(room.decoder, "picture", counted)
    with TestClient(app) as client, ThreadPoolExecutor(50) as threads:
        answers = threads.map(lambda n: client.post("/api/v1/inputs", content=picture(n)), range(50))
        assert {answer.status_code for answer in answers} == {201}
    assert most == 4


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: tuple[bytes, bytes], width: int = 8, height: int = 8) -> bytes:
    """A grey PNG with some chunks between its header and its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (width + 1) * height if width * height < 2**20 else b"")
    body = b"".join(chunk(*each) for each in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + body


def saved(image: Image.Image, file_format: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **how)  # type: ignore[arg-type]
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return exif


WIDE = Image.new("RGB", (16, 8), "red")
BOMB = b"x\0\0" + zlib.compress(b"a" * 2**26, 9)  # 64 KiB that become 64 MiB
SCRIPT = b"<script>alert(1)</script>"
TAKEN = {
    "CMYK": (saved(Image.new("CMYK", (16, 8)), "JPEG"), (16, 8)),
    "16 bits": (saved(Image.new("I;16", (16, 8)), "PNG"), (16, 8)),
    "palette": (saved(WIDE.convert("P"), "PNG", transparency=0), (16, 8)),
    "turned": (saved(WIDE, "JPEG", exif=turned()), (8, 16)),
    "one pixel": (saved(WIDE.crop((0, 0, 1, 1)), "PNG"), (1, 1)),
    "a line": (png(width=1, height=65535), (1, 65535)),
    "webp": (saved(WIDE, "WEBP"), (16, 8)),
    "script in a text": (png((b"tEXt", b"Comment\0" + SCRIPT)), (8, 8)),
    "script behind it": (saved(WIDE, "PNG") + SCRIPT, (16, 8)),
    "script in a comment": (saved(WIDE, "JPEG", comment=SCRIPT), (16, 8)),
    "colour profile": (png((b"iCCP", b"x\0\0" + zlib.compress(SCRIPT))), (8, 8)),
}
REFUSED = {
    "empty": b"",
    "gif": saved(WIDE, "GIF"),
    "tiff": saved(WIDE, "TIFF"),
    "bmp": saved(WIDE, "BMP"),
    "ico": saved(WIDE, "ICO"),
    "eps": saved(WIDE, "EPS"),
    "pdf": saved(WIDE, "PDF"),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "html": b"<!doctype html>" + SCRIPT,
    "html before a picture": SCRIPT + saved(WIDE, "PNG"),
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "xml": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>",
    "animated png": saved(WIDE, "PNG", save_all=True, append_images=[Image.new("RGB", (16, 8), "blue")]),
    "animated webp": saved(WIDE, "WEBP", save_all=True, append_images=[Image.new("RGB", (16, 8), "blue")]),
    "half": saved(WIDE, "JPEG")[:-200],
    "50,000 x 50,000": png(width=50_000, height=50_000),
    "2^31 x 1": png(width=2**31 - 1, height=1),
    "text bomb": png((b"zTXt", BOMB)),
    "profile bomb": png((b"iCCP", BOMB)),
    "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
}


@pytest.mark.parametrize("name", TAKEN)
def test_pictures_of_every_kind_are_kept_as_nothing_but_pictures(
    client: TestClient, engine: Engine, name: str
) -> None:
    data, size = TAKEN[name]
    answer = client.post("/api/v1/inputs", content=data)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["width"], answer.json()["height"]) == size
    kept = engine.inputs.path(answer.json()["name"]).read_bytes()
    assert SCRIPT not in kept
    with Image.open(io.BytesIO(kept)) as image:
        assert (image.format, image.size, sorted(set(image.info) - {"transparency"})) == ("PNG", size, [])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_wherever_it_is_sent(client: TestClient, name: str) -> None:
    data = REFUSED[name]
    text = base64.b64encode(data).decode()
    for path, given in (
        ("/api/v1/inputs", {"content": data}),
        ("/sdapi/v1/img2img", {"json": {"init_images": [text]}}),
        ("/sdapi/v1/extra-single-image", {"json": {"image": text}}),
        ("/api/v1/gallery/similar", {"json": {"image": text}}),
        ("/v1/images/edits", {"data": {"prompt": "x"}, "files": {"image": data}}),
    ):
        answer = client.post(path, **given)  # type: ignore[arg-type]
        assert answer.status_code in (400, 422), (path, answer.text)
