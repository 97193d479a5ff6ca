"""The search page: every address it answers, what it refuses, and the page itself in headless Chromium."""

import http.client
import io
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile

from data_util.streaming import find_audio, stream
from helpers import local_server, sound_server
from helpers.sound_building import build_index
from helpers.sound_index import load_index
from helpers.sound_media import WavView, played_as, spectrogram, spectrogram_png
from helpers.sound_server import Limits, make_app
from tests.sounds import HERTZ, PATHS, RATE, Spectral, make_sounds, tone, write

pytest.importorskip("starlette")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

ADDRESS = "http://127.0.0.1:8000"
AUDIO = {"Content-Type": "audio/wav"}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    sounds = make_sounds(folder / "sounds")
    build_index(folder / "index", sounds, find_audio(sounds), Spectral(), stream)
    return load_index(folder / "index")


@pytest.fixture
def client(index):
    limits = Limits(megabytes=0.5, seconds=5.0, most=20)
    return TestClient(make_app(index, Spectral(), stream, limits), base_url=ADDRESS)


def wav(audio, rate=RATE, kind="WAV"):
    with io.BytesIO() as file:
        soundfile.write(file, audio, rate, format=kind)
        return file.getvalue()


def post(client, body, name="hum.wav", headers=AUDIO, **query):
    return client.post("/api/search", params={"name": name, **query}, content=body, headers=headers)


# -- searching
@pytest.mark.parametrize("sound", PATHS)
@pytest.mark.parametrize(("kind", "rate"), [("WAV", 48000), ("FLAC", 22050), ("OGG", 44100), ("MP3", 44100)])
def test_the_known_sound_is_first(client, sound, kind, rate):
    answer = post(client, wav(tone(HERTZ[sound], rate=rate, seed=1), rate, kind)).json()
    assert answer["results"][0]["path"] == PATHS[sound]
    assert [result["rank"] for result in answer["results"]] == [1, 2, 3]
    assert answer["notices"] == []
    first = answer["results"][0]
    assert client.get(first["audio"]).status_code == 200
    assert client.get(first["spectrogram"]).content.startswith(b"\x89PNG")


def test_top_and_notices(client):
    answer = post(client, wav(tone(300.0, 3.0)), top=1).json()
    assert len(answer["results"]) == 1
    assert answer["notices"] == ["hum.wav: longer than 2 s, only the first 2 s are compared"]
    for top in ("0", "21", "x", "-1", "1e9"):
        response = post(client, wav(tone(300.0)), top=top)
        assert (response.status_code, response.json()["error"]) == (400, f"top is '{top}', expected 1 to 20")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "hum.wav: empty, expected a sound"),
        (b"<html>no sound</html>" * 99, 415, "hum.wav: not readable as audio"),
        (wav(np.zeros(RATE)), 400, "hum.wav: silent (peak 0.0e+00), expected a sound"),
        (wav(tone(300.0, 6.0)), 400, "hum.wav: 6 s long, expected at most 5 s"),
        (wav(np.zeros(1800 * 1000), 1000, "FLAC"), 400, "hum.wav: 1800 s long, expected at most 5 s"),
        (wav(tone(300.0, 0.02)), 400, "hum.wav: 0.020 s long, expected at least 0.1 s"),
        (wav(tone(300.0))[:8044], 400, "hum.wav: ends after 0.25 s, expected 1.50 s"),
        (bytes(500_001), 413, "the upload is larger than 0.5 MB"),
    ],
)
def test_uploads_that_are_refused(client, body, status, message):
    response = post(client, body)
    assert response.status_code == status
    assert response.json()["error"].startswith(message)
    assert "\n" not in response.json()["error"]
    assert "/tmp" not in response.json()["error"]


def test_too_big_without_announcement(client):
    taken = []

    def pieces():
        for _ in range(100):
            taken.append(1)
            yield bytes(100_000)

    response = client.post("/api/search", content=pieces(), headers=AUDIO)
    assert (response.status_code, response.json()["error"]) == (413, "the upload is larger than 0.5 MB")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\x.wav", "x.wav"),
        ("/etc/shadow", "shadow"),
        ("..", ".."),
        ("a\x00\n\x1bb.wav", "ab.wav"),
        ("", "recording"),
        ("x" * 999, "x" * 100),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
    ],
)
def test_names_of_uploads_are_only_shown(client, name, shown, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = []
    real = tempfile.mkstemp
    monkeypatch.setattr(tempfile, "mkstemp", lambda **options: made.append(real(**options)) or made[-1])
    response = post(client, wav(tone(HERTZ["low"])), name)
    assert response.json()["query"] == shown
    assert response.headers["content-type"] == "application/json"  # no browser takes it for a page
    assert [os.path.dirname(path) for _, path in made] == [str(tmp_path)]
    assert os.path.basename(made[0][1]).startswith("query-")
    assert list(tmp_path.iterdir()) == []  # nothing is left


def test_content_types(client):
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""):
        assert post(client, wav(tone(300.0)), headers={"Content-Type": kind}).status_code == 415
    assert post(client, wav(tone(300.0)), headers={"Content-Type": "application/octet-stream"}).status_code == 200
    assert client.get("/api/search").status_code == 405


def test_texts(index, client):
    assert client.get("/api/index").json()["text"] is False
    assert client.get("/api/text", params={"q": "a low tone"}).status_code == 404

    def embed_text(text):
        if text == "?":
            raise ValueError("no words")
        return index.vectors[1 if "low" in text else 2]

    client = TestClient(make_app(index, Spectral(), stream, Limits(top=2), embed_text=embed_text), base_url=ADDRESS)
    assert client.get("/api/index").json()["text"] is True
    answer = client.get("/api/text", params={"q": "a low tone"}).json()
    assert (answer["query"], answer["results"][0]["path"], len(answer["results"])) == ("a low tone", "low/a.wav", 2)
    assert client.get("/api/text", params={"q": "another"}).json()["results"][0]["path"] == "mid/a.wav"
    for text in ("", "  ", "x" * 501, "?"):
        assert client.get("/api/text", params={"q": text}).status_code == 400


def test_an_index_of_another_checkpoint(index):
    with pytest.raises(ValueError, match="made with 'spectral 1', expected 'spectral 2'"):
        make_app(index, Spectral("spectral 2"), stream)


# -- sounds
def number_of(index, name):
    return [file.path for file in index.files].index(PATHS[name])


def test_only_sounds_of_the_index_go_out(index):
    pytest.importorskip("uvicorn")
    addresses = (
        "/audio/../../etc/passwd", "/audio/%2e%2e/%2e%2e/etc/passwd", "/audio/..%2f..%2fetc%2fpasswd", "/audio/-1",
        "/audio/3", "/audio/99999999999999999999", "/audio/low/a.wav", "/audio/0/../../x", "/audio/", "/page.py",
        "/../sound_server.py", "/spectrogram/3", "/spectrogram/..", "//etc/passwd", "/index.json", "/audio/0%00",
    )  # fmt: skip
    with served(make_app(index, Spectral(), stream)) as address:
        connection = http.client.HTTPConnection(address.split("/")[2])
        for path in addresses:
            connection.request("GET", path)  # as it stands, where other clients would resolve the dots
            response = connection.getresponse()
            assert (path, response.status) == (path, 404)
            assert len(response.read()) < 200
        connection.request("GET", "/audio/0")
        assert connection.getresponse().status == 200
        connection.close()


def test_files_go_out_as_they_are(index, client):
    number = number_of(index, "low")
    content = index.path_of(number).read_bytes()
    response = client.get(f"/audio/{number}")
    assert (response.content, response.headers["content-type"]) == (content, "audio/wav")
    assert response.headers["accept-ranges"] == "bytes"
    part = client.get(f"/audio/{number}", headers={"Range": "bytes=100-299"})
    assert (part.status_code, part.content) == (206, content[100:300])
    assert part.headers["content-range"] == f"bytes 100-299/{len(content)}"


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        (None, (0, None)), ("bytes=0-", (0, None)), ("bytes=0-0", (0, 1)), ("bytes=0-43", (0, 44)),
        ("bytes=40-50", (40, 51)), ("bytes=44-999", (44, 1000)), ("bytes=1001-1500", (1001, 1501)),
        ("bytes=60000-", (60000, None)), ("bytes=-500", (-500, None)), ("bytes=66000-99999999", (66000, None)),
        ("bytes=-99999999", (0, None)),
    ],
)  # fmt: skip
def test_other_formats_become_wav_in_ranges(index, client, asked, span):
    number = number_of(index, "high")
    pcm = soundfile.read(index.path_of(number), dtype="int16")[0]
    whole = client.get(f"/audio/{number}").content
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(whole), dtype="int16")[0], pcm)
    assert len(whole) == 44 + 2 * len(pcm)
    response = client.get(f"/audio/{number}", headers={} if asked is None else {"Range": asked})
    expected = whole[span[0] : span[1]]
    assert response.content == expected
    assert response.headers["content-length"] == str(len(expected))
    assert response.headers["content-type"] == "audio/wav"
    if asked is None:
        assert (response.status_code, response.headers["accept-ranges"]) == (200, "bytes")
    else:
        start = span[0] % len(whole)
        assert response.status_code == 206
        assert response.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/{len(whole)}"


def test_ranges_that_do_not_exist(index, client):
    number = number_of(index, "high")
    response = client.get(f"/audio/{number}", headers={"Range": "bytes=9999999-"})
    assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{44 + 2 * 33075}")
    for odd in ("bytes=x-y", "bytes=-", "seconds=1-2", "bytes=0-1,5-9"):
        assert client.get(f"/audio/{number}", headers={"Range": odd}).status_code == 200


def test_sounds_that_are_gone(tmp_path):
    sounds = make_sounds(tmp_path / "sounds")
    build_index(tmp_path / "index", sounds, find_audio(sounds), Spectral(), stream)
    client = TestClient(make_app(load_index(tmp_path / "index"), Spectral(), stream), base_url=ADDRESS)
    (sounds / "high.aiff").write_bytes(b"no sound")
    (sounds / "low" / "a.wav").unlink()
    for address in ("/audio/0", "/audio/1", "/spectrogram/0", "/spectrogram/1"):
        response = client.get(address)
        assert response.status_code == 404
        assert response.json()["error"].endswith("is gone or has changed since the index was made")


def test_spectrograms(client, index, monkeypatch):
    drawn = []
    real = sound_server.spectrogram_png
    monkeypatch.setattr(sound_server, "spectrogram_png", lambda *of: drawn.append(of) or real(*of))
    first = client.get("/spectrogram/1?start=0.5")
    assert (first.status_code, first.headers["content-type"]) == (200, "image/png")
    assert client.get("/spectrogram/1?start=0.5").content == first.content
    assert drawn == [(index.path_of(1), 0.5, 2.0)]
    for odd in ("-1", "x", "nan", "1e9", "99999999"):
        assert client.get(f"/spectrogram/1?start={odd}").status_code == 400
    assert client.get("/spectrogram/1?start=9999").status_code == 200


def test_spectrogram_shows_where_the_tone_is():
    for hertz in (220.0, 1000.0, 6000.0):
        levels, edges = spectrogram(np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32), RATE)
        assert levels.shape[0] == len(edges) - 1
        loudest = levels.mean(1).argmax()
        assert edges[loudest] / 1.15 < hertz < edges[loudest + 1] * 1.15
        assert levels.max() == 0
    assert spectrogram(np.zeros(RATE, np.float32), RATE)[0].max() == -70


def test_media_types(tmp_path):
    audio = tone(300.0)
    for name, options, expected in [
        ("a.wav", {"subtype": "PCM_16"}, "audio/wav"), ("a.wav", {"subtype": "FLOAT"}, "audio/wav"),
        ("a.wav", {"subtype": "IMA_ADPCM"}, None), ("a.wav", {"subtype": "DOUBLE"}, None), ("a.flac", {}, "audio/flac"),
        ("a.ogg", {}, "audio/ogg"), ("a.mp3", {}, "audio/mpeg"), ("a.aiff", {}, None), ("a.w64", {}, None),
    ]:  # fmt: skip
        path = write(tmp_path / name, audio, **options)
        assert played_as(path) == expected, (name, options)
        view = WavView(path)
        found, rate = soundfile.read(io.BytesIO(b"".join(view.part(0, view.size))))
        assert rate == RATE
        np.testing.assert_allclose(found, soundfile.read(path)[0], atol=1e-4)
        assert spectrogram_png(path).startswith(b"\x89PNG")


# -- who may ask
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200), ("localhost:8000", 200), ("LOCALHOST", 200), ("[::1]:8000", 200), ("192.168.1.7", 200),
        ("evil.example", 400), ("127.0.0.1.evil.example", 400), ("localhost.evil.example:8000", 400), ("", 400),
        ("[::1", 400),
    ],
)  # fmt: skip
def test_foreign_names(client, host, status):
    for address in ("/", "/api/index", "/audio/0"):
        assert client.get(address, headers={"Host": host}).status_code == status


def test_own_names(index):
    client = TestClient(make_app(index, Spectral(), stream, names=["Studio"]), base_url="http://studio:80")
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"Host": "studio2"}).status_code == 400


def test_foreign_pages(client):
    body = wav(tone(300.0))
    assert post(client, body, headers={**AUDIO, "Origin": ADDRESS}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9000"):
        assert post(client, body, headers={**AUDIO, "Origin": origin}).status_code == 403


def test_headers_and_page(client):
    for address in ("/", "/page.js", "/page.css", "/api/index", "/nowhere"):
        headers = client.get(address).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("/", "/page.js", "/page.css"):
        text = client.get(name).text
        assert "http://" not in text  # nothing comes from elsewhere
        assert "https://" not in text
        assert "innerHTML" not in text
    assert client.get("/api/index").json() == {
        "sounds": 3, "text": False, "top": 10, "query_seconds": 2.0, "limit_seconds": 5.0, "limit_megabytes": 0.5,
    }  # fmt: skip


def test_a_taken_port():
    pytest.importorskip("uvicorn")
    _, listening, address = local_server.make_server(None, port=0)
    with listening:
        port = int(address.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(ValueError, match=rf"cannot listen at 127\.0\.0\.1 port {port} .*choose another port"):
            local_server.make_server(None, port=port)
    with pytest.raises(ValueError, match="port is 99999, expected 0 to 65535"):
        local_server.make_server(None, port=99999)


def test_missing_packages(index, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "starlette", None)
    with pytest.raises(ValueError, match="serve needs the package starlette: pip install starlette uvicorn"):
        make_app(index, Spectral(), stream)


# -- in a browser
class Chromium:
    """Headless Chromium, driven over a pipe by its own protocol (DevTools), without any package."""

    def __init__(self, binary, folder, microphone):
        to_browser, self.commands = os.pipe()
        self.answers, from_browser = os.pipe()

        def pipes():
            # Copies first: the wanted numbers 3 and 4 may be taken by these very pipes.
            ends = os.dup(to_browser), os.dup(from_browser)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            "--no-first-run", "--disable-background-networking", "--mute-audio", f"--user-data-dir={folder}",
            "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={microphone}", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [binary, *options], preexec_fn=pipes, close_fds=False, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.rest, self.session, self.events = 0, b"", None, []
        pages = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self.session = self("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]

    def __call__(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self):
        while b"\0" not in self.rest:
            piece = os.read(self.answers, 1 << 16)
            assert piece, "the browser has ended"
            self.rest += piece
        first, _, self.rest = self.rest.partition(b"\0")
        return json.loads(first)

    def evaluate(self, script):
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script, seconds=20):
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"{script} stays {value}; {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def click(self, selector):
        """A press of the mouse where an element is, as a user does it."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, selector, path):
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.commands)
        os.close(self.answers)


@contextmanager
def served(app):
    """Address of an application while the block lasts."""
    server, listening, address = local_server.make_server(app, port=0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("uvicorn")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    binary = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if binary is None or os.name != "posix":
        pytest.skip(f"no Chromium here: looked for {', '.join(names)} (set CHROMIUM to its path)")
    microphone = write(tmp_path / "microphone.wav", tone(HERTZ["mid"], 4.0, 48000, seed=7), 48000)
    chromium = Chromium(binary, tmp_path / "profile", microphone)
    try:
        yield chromium
    finally:
        chromium.close()


FIRST = "document.querySelector('#results li .path')?.textContent"
PLAYER = "document.querySelector('#results li audio')"


def test_page_in_chromium(browser, index, tmp_path):
    def embed_text(text):
        return index.vectors[number_of(index, text)]

    app = make_app(index, Spectral(), stream, Limits(seconds=30.0), embed_text=embed_text)
    with served(app) as address:
        browser("Log.enable")
        browser("Page.navigate", url=address)
        browser.wait_for("document.body?.dataset.ready === 'yes'")
        assert browser.evaluate("document.getElementById('about').textContent").startswith("3 sounds.")

        # A file that browsers play as it is, and one that is sent as wav.
        for sound, query in (("low", "hum.wav"), ("high", "hum.aiff")):
            browser.evaluate("document.getElementById('results').replaceChildren()")
            browser.choose("#file", write(tmp_path / query, tone(HERTZ[sound], rate=44100, seed=1), 44100))
            browser.wait_for(FIRST)
            assert browser.evaluate(FIRST) == PATHS[sound]
            assert browser.evaluate("document.querySelectorAll('#results li').length") == 3
            browser.click("#results li .play")
            browser.wait_for(f"{PLAYER}.readyState >= 2 && {PLAYER}.currentTime > 0.1")
            assert browser.evaluate(f"{PLAYER}.duration") == pytest.approx(1.5, abs=0.1)
            browser.wait_for("document.querySelector('#results li img').naturalWidth > 100")

        # The microphone, which hears the middle tone.
        browser.evaluate("document.getElementById('results').replaceChildren()")
        browser.click("#record")
        browser.wait_for("document.getElementById('record').textContent === 'Stop and search'")
        time.sleep(1.0)
        browser.click("#record")
        browser.wait_for(FIRST)
        assert browser.evaluate(FIRST) == PATHS["mid"]
        assert browser.evaluate("document.getElementById('query-name').textContent") == "recording"

        # A text, a file that is no sound, and a silent one.
        browser.evaluate("document.getElementById('words').value = 'low'")
        browser.click("#text button")
        browser.wait_for(f"{FIRST} === 'low/a.wav'")
        (tmp_path / "no.wav").write_bytes(b"no sound" * 99)
        browser.choose("#file", tmp_path / "no.wav")
        status = "document.querySelector('#status.error')?.textContent"
        browser.wait_for(f"{status} === 'no.wav: not readable as audio'")
        browser.choose("#file", write(tmp_path / "silent.wav", np.zeros(RATE)))
        browser.wait_for(f"{status}?.startsWith('silent.wav: silent')")
        assert browser.evaluate("document.querySelectorAll('#results li').length") == 0

        complaints = [e["params"]["entry"] for e in browser.events if e.get("method") == "Log.entryAdded"]
        assert not [c for c in complaints if c["source"] == "security" or "Content Security" in c["text"]]
