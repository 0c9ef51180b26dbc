"""Pictures that clients send are decoded a few at a time, whatever their number."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from starlette.testclient import TestClient

from sfumato.app.engine import Engine
from sfumato.errors import QueueFullError
from sfumato.server import darkroom
from sfumato.server.app import create_app
from sfumato.server.darkroom import Darkroom

SIDE = 64


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


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
    app.state.desk.darkroom.room = 4 * SIDE * SIDE
    inside, most, lock, read = 0, [0], threading.Lock(), darkroom.read_picture

    def counted(image: Image.Image) -> Image.Image:
        nonlocal inside
        with lock:
            inside += 1
            most[0] = max(most[0], inside)
        try:
            return read(image)
        finally:
            with lock:
                inside -= 1

    monkeypatch.setattr(darkroom, "read_picture", counted)
    with TestClient(app) as client, ThreadPoolExecutor(50) as threads:
        answers = threads.map(lambda n: client.post("/api/v1/inputs", content=picture(n)), range(50))
        assert {answer.status_code for answer in answers} == {201}
    assert 1 <= most[0] <= 4
