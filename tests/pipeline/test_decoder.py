"""Strangers' pictures are read by a process that may do so much and no more, and the next one by another."""

import gc
import io
import signal
import struct
import subprocess
import sys
import weakref
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import OutputError
from sfumato.pipeline import images
from sfumato.pipeline.decoder import Decoder
from sfumato.pipeline.source import read_picture
from sfumato.weights import apart


def saved(image: Image.Image, file_format: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **how)
    return buffer.getvalue()


def black(side: int) -> bytes:
    """A square PNG of one bit a pixel, small as a file."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + (side + 7) // 8) * side), 1)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_pictures_and_texts_are_those_that_this_process_reads(
    decoder: Decoder, mode: str, file_format: str
) -> None:
    image = Image.effect_noise((40, 24), 90).convert("RGB")
    if file_format == "PNG":
        image = image.convert("L" if mode == "I;16" else mode).convert(mode)
    texts = PngInfo()
    texts.add_text("parameters", "a cat \u732b\nSteps: 1")
    data = saved(image, file_format, **({"pnginfo": texts} if file_format == "PNG" else {}))
    found, wanted = decoder.picture(data), read_picture(images.open_image(data))
    assert (found.mode, found.size, found.tobytes()) == (wanted.mode, wanted.size, wanted.tobytes())
    assert decoder.size(data) == image.size
    assert decoder.texts(data) == images.read_texts(data)


@pytest.mark.parametrize("read", [Decoder.size, Decoder.picture, Decoder.texts])
@pytest.mark.parametrize("data", [b"", b"x" * 1000, saved(Image.new("L", (8, 8)), "GIF")])
def test_what_is_no_picture_is_refused_and_costs_no_process(
    decoder: Decoder, read: Callable[[Decoder, bytes], object], data: bytes
) -> None:
    good = saved(Image.new("L", (8, 8)))
    decoder.size(good)
    process = decoder._process
    with pytest.raises(OutputError, match="the picture that was sent: not a PNG, JPEG or WebP"):
        read(decoder, data)
    assert decoder.size(good) == (8, 8)
    assert decoder._process is process


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound addresses")
def test_a_picture_beyond_the_memory_is_refused_and_the_next_is_read() -> None:
    decoder = Decoder(memory=2**29)
    with pytest.raises(OutputError, match="memory"):
        decoder.picture(black(11_000))  # within the limit of pixels, and 363 MB as RGB
    assert decoder.picture(black(100)).size == (100, 100)


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not bound it")
def test_a_process_that_computes_on_and_on_is_ended() -> None:
    program = "from sfumato.weights import apart\napart.allow(1)\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGXCPU


def test_what_takes_too_long_is_given_up_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(wall=0)
    with pytest.raises(OutputError, match="time"):
        decoder.picture(black(11_000))
    decoder.wall = 300
    assert decoder.size(black(8)) == (8, 8)


def test_a_process_that_has_died_is_followed_by_another(decoder: Decoder) -> None:
    data = black(8)
    decoder.size(data)
    assert decoder._process is not None
    decoder._process.kill()
    decoder._process.wait()
    assert decoder.size(data) == (8, 8)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json\n",
        b"[]\n",
        b'{"size": [8, 8], "bytes": 0}\n',  # no mode
        b'{"size": [8, 8], "mode": "F", "bytes": 256}\n',
        b'{"size": [8, 8], "mode": "RGB", "bytes": 191}\n',
        b'{"size": [8, 8], "mode": "RGB", "bytes": 192}\nshort',
        b'{"size": [-8, -8], "mode": "RGB", "bytes": 192}\n',
        b'{"size": [100000, 100000], "mode": "RGB", "bytes": 30000000000}\n',
        b'{"size": [8], "mode": "RGB", "bytes": 192}\n',
        b'{"size": ["x", 8], "mode": "RGB", "bytes": 192}\n',
        b"x" * 100_000,
    ],
)
def test_a_process_that_was_taken_over_is_not_believed(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"import sys\nsys.stdin.buffer.readline()\nsys.stdout.buffer.write({answer!r})"
    monkeypatch.setattr(apart, "command", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(OutputError, match="the picture that was sent"):
        Decoder().picture(black(8))


def test_where_no_process_can_be_started_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(OutputError, match="no process can be started"):
        Decoder().size(black(8))


def test_many_ask_at_once_and_each_gets_its_own(decoder: Decoder) -> None:
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda side: decoder.picture(black(side)).size, range(1, 40)))
    assert sizes == [(side, side) for side in range(1, 40)]


@pytest.mark.skipif(sys.platform == "win32", reason="its processes end otherwise")
def test_the_process_is_started_by_the_first_picture_and_ends_with_its_decoder() -> None:
    decoder = Decoder()
    started = decoder._process
    decoder.size(black(8))
    process, gone = decoder._process, weakref.ref(decoder)
    del decoder
    gc.collect()
    assert gone() is None
    assert (started, process and process.wait(60)) == (None, -signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no limits to be shown")
def test_the_process_may_start_no_others_and_write_no_files() -> None:
    program = (
        "import resource\nfrom sfumato.weights import apart\napart.limit(memory=2**32, output=0)\n"
        "print([resource.getrlimit(each) for each in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[(0, 0), (0, 0)]\n"
