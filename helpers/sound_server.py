"""A local web page that searches an index of sounds: record or drop a query, see and play what is found.

The page needs no network beyond its server. What comes from outside is bounded and not trusted: uploads have at most
so many bytes and seconds and lie under random names while they are read, sounds go out by their number in the index,
and requests that another web site makes, or has made under a name of its own, are refused.
"""

import contextlib
import functools
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from helpers.local_server import Guard, require
from helpers.sound_index import SoundIndex
from helpers.sound_media import WavView, played_as, spectrogram_png
from helpers.sound_query import as_json, recording_query

log = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "sound_pages"
MIME = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
KEPT_IMAGES = 512
TEXT_LENGTH, NAME_LENGTH = 500, 100  # characters


@dataclass(frozen=True)
class Limits:
    """What the page takes and shows.

    Attributes:
        megabytes: of an upload, at most.
        seconds: of an upload, at most.
        top: sounds that are shown.
        most: sounds that may be asked for.
    """

    megabytes: float = 30.0
    seconds: float = 600.0
    top: int = 10
    most: int = 100


class _Refused(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


def make_app(
    index: SoundIndex,
    encoder: Callable,
    read: Callable,
    limits: Limits = Limits(),
    *,
    embed_text: Callable[[str], np.ndarray] | None = None,
    names: Sequence[str] = (),
):
    """The web application.

    Args:
        index: the sounds.
        encoder: of recorded queries, see :func:`helpers.sound_building.build_index`.
        read: callable (path, sample rate) -> blocks of a mono recording.
        limits: of what is uploaded and shown.
        embed_text: callable text -> vector [dim] of the same space; None: the page has no field for texts.
        names: host names under which the page may be asked for, beside ``localhost`` and addresses in digits.

    Returns:
        a Starlette application.

    Raises:
        ValueError: the index was made with another checkpoint, or the package is missing.
    """
    index.require(encoder)
    require("starlette")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    pages = _Pages(index, encoder, read, embed_text, limits)

    async def refused(request, error):
        return JSONResponse({"error": str(error)}, error.status)

    routes = [
        Route("/", functools.partial(pages.static, name="index.html")),
        *(Route(f"/{name}", functools.partial(pages.static, name=name)) for name in ("page.js", "page.css")),
        Route("/api/index", pages.about),
        Route("/api/search", pages.search, methods=["POST"]),
        Route("/api/text", pages.search_text),
        Route("/audio/{number:int}", pages.audio),
        Route("/spectrogram/{number:int}", pages.spectrogram),
    ]
    guard = Middleware(Guard, names=frozenset(map(str.lower, names)))
    return Starlette(routes=routes, middleware=[guard], exception_handlers={_Refused: refused})


class _Pages:
    """The answers. Those that compute are plain functions, which Starlette runs in threads."""

    def __init__(self, index, encoder, read, embed_text, limits):
        self.index, self.encoder, self.read, self.embed_text = index, encoder, read, embed_text
        self.limits = limits
        self.computing, self.drawing = threading.Lock(), threading.Lock()  # one network, one matplotlib
        self.image = functools.lru_cache(KEPT_IMAGES)(self._image)

    def static(self, request, name):
        from starlette.responses import Response

        return Response((PAGES / name).read_bytes(), media_type=MIME[Path(name).suffix])

    def about(self, request):
        from starlette.responses import JSONResponse

        return JSONResponse({
            "sounds": len(self.index.files), "text": self.embed_text is not None, "top": self.limits.top,
            "query_seconds": self.encoder.max_seconds, "limit_seconds": self.limits.seconds,
            "limit_megabytes": self.limits.megabytes,
        })  # fmt: skip

    async def search(self, request):
        """A recording in the body; ``name`` is only shown."""
        from starlette.concurrency import run_in_threadpool

        kind = request.headers.get("content-type", "")
        if not kind.startswith("audio/") and kind != "application/octet-stream":
            raise _Refused(415, f"content type '{kind}', expected audio")
        limit, body = int(self.limits.megabytes * 1e6), bytearray()
        too_big = _Refused(413, f"the upload is larger than {self.limits.megabytes:g} MB")
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise too_big
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_big
        name, top = _shown_name(request.query_params.get("name", "")), self._top(request)
        return await run_in_threadpool(self._answer, bytes(body), name, top)

    def _answer(self, body, name, top):
        if not body:
            raise _Refused(400, f"{name}: empty, expected a sound")
        with _temporary(body) as path:
            self._require_length(path, name)
            try:
                with self.computing:
                    query = recording_query(path, self.encoder, self.read, name)
            except ValueError as error:
                raise _Refused(400, str(error).replace(path, name)) from None
        return self._results(query.vector, name, query.notices, top)

    def _require_length(self, path, name):
        import soundfile

        try:
            seconds = soundfile.info(path).duration
        except soundfile.SoundFileError:
            raise _Refused(415, f"{name}: not readable as audio") from None
        if seconds > self.limits.seconds:
            raise _Refused(400, f"{name}: {seconds:.0f} s long, expected at most {self.limits.seconds:g} s")

    def search_text(self, request):
        """A text in ``q``."""
        if self.embed_text is None:
            raise _Refused(404, "this index is searched without texts")
        text = request.query_params.get("q", "").strip()
        if not 0 < len(text) <= TEXT_LENGTH:
            raise _Refused(400, f"a text of {len(text)} characters, expected 1 to {TEXT_LENGTH}")
        top = self._top(request)
        try:
            with self.computing:
                vector = self.embed_text(text)
        except ValueError as error:
            raise _Refused(400, str(error)) from None
        return self._results(vector, text, (), top)

    def _top(self, request):
        asked = request.query_params.get("top", str(self.limits.top))
        if not re.fullmatch(r"[0-9]{1,6}", asked) or not 1 <= int(asked) <= self.limits.most:
            raise _Refused(400, f"top is '{asked[:20]}', expected 1 to {self.limits.most}")
        return int(asked)

    def _results(self, vector, query, notices, top):
        from starlette.responses import JSONResponse

        hits = self.index.search(vector, top)
        answer = as_json(self.index, hits, query, notices)
        del answer["sounds"]  # where they lie on this computer
        for result, hit in zip(answer["results"], hits):
            result["audio"] = f"/audio/{hit.number}"
            result["spectrogram"] = f"/spectrogram/{hit.number}?start={hit.start:.3f}"
        return JSONResponse(answer)

    def _sound(self, request):
        number = request.path_params["number"]
        try:
            return self.index.path_of(number)
        except IndexError as error:
            raise _Refused(404, str(error)) from None

    def audio(self, request):
        """A sound, as it is where browsers play it, otherwise as wav."""
        from starlette.responses import FileResponse

        path = self._sound(request)
        with _missing_is_404(request):
            mime = played_as(path)
            if mime is not None:
                return FileResponse(path, media_type=mime)
            return _wav_response(WavView(path), request.headers.get("range"))

    def spectrogram(self, request):
        """An image of a sound from ``start`` on."""
        from starlette.responses import Response

        self._sound(request)
        asked = request.query_params.get("start", "0")
        if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", asked):
            raise _Refused(400, f"start is '{asked[:20]}', expected seconds")
        with _missing_is_404(request):
            image = self.image(request.path_params["number"], float(asked))
        return Response(image, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    def _image(self, number, start):
        seconds = self.index.config["cutting"]["window"]
        with self.drawing:
            return spectrogram_png(self.index.path_of(number), start, seconds)


def _wav_response(view, asked):
    """All of a sound or one range of it [RFC 9110, section 14]."""
    from starlette.responses import Response, StreamingResponse

    start, stop, status, headers = 0, view.size, 200, {"Accept-Ranges": "bytes"}
    found = re.fullmatch(r"bytes=([0-9]{0,15})-([0-9]{0,15})", asked or "")
    if found and any(found.groups()):
        first, last = found.groups()
        start = int(first) if first else max(0, view.size - int(last))
        stop = min(view.size, int(last) + 1) if first and last else view.size
        if start >= stop:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{view.size}"})
        status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{view.size}"
    headers["Content-Length"] = str(stop - start)
    return StreamingResponse(view.part(start, stop), status, headers, media_type="audio/wav")


@contextlib.contextmanager
def _missing_is_404(request):
    try:
        yield
    except ValueError as error:
        log.warning("%s", error)
        reason = f"sound {request.path_params['number']} is gone or has changed since the index was made"
        raise _Refused(404, reason) from None


@contextlib.contextmanager
def _temporary(content):
    """Path of a file of random name that holds some bytes, while the block lasts."""
    descriptor, path = tempfile.mkstemp(prefix="query-")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        os.unlink(path)


def _shown_name(name):
    """What messages call an upload: the last part of its name, never used as a path."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(c for c in last if c.isprintable())[:NAME_LENGTH] or "recording"
