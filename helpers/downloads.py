"""Downloads that go on where they broke off.

A file under its final name is always complete: what has come so far is called ``<name>.partial``, with a note beside
it of what it is a part of, and is continued (RFC 9110, sections 13.1.5 and 14) if the server still has the same file.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from helpers.files import replacing

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
RECORD = "downloads.json"
TIMEOUT = 30  # seconds without a byte
RETRIES, WAIT = 5, 1.0  # failures in a row that are borne, and seconds after the first; doubled after each
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses that may pass
HEX_DIGITS = {32: "md5", 40: "sha1", 64: "sha256"}


def fetch(address, path, checksum=None, retries=RETRIES, wait=WAIT, size=None):
    """Downloads a file.

    Args:
        address: with any scheme that urllib knows.
        path: of the file.
        checksum: "sha256:<hex digits>" or "md5:..."; None: only the length is checked.
        retries: failures in a row, without any progress, after which to give up.
        wait: seconds before the second attempt, doubled with every further failure.
        size: bytes, where they are known; else what the server announces counts.

    Raises:
        OSError: no answer, a refusal, or no progress after all attempts; what has come is kept for the next call.
        ValueError: another size or checksum; what has come is thrown away.
    """
    partial, failures, progress = _Partial(address, Path(path), size), 0, False
    while True:
        before = partial.have
        try:
            partial.go_on()
            break
        except (OSError, http.client.HTTPException) as error:
            failure = _reason(error)
            # Who cannot even connect is offline, or the address is wrong: that does not pass within seconds.
            unreachable = isinstance(error, urllib.error.URLError) and not hasattr(error, "code")
            refused = getattr(error, "code", 503) not in TRY_AGAIN
        progress |= partial.have > before
        failures = 1 if partial.have > before else failures + 1
        if refused or failures > retries or (unreachable and not progress):
            came = f"; {partial.have} bytes are kept, start it again to go on" if partial.have else ""
            raise OSError(f"{address}: {failure}{came}")
        logger.warning("%s: %s; trying again", address, failure)
        time.sleep(wait * 2 ** (failures - 1))
    try:
        partial.require_size(partial.have)
        if checksum:
            require_checksum(partial.file, checksum, address)
    except ValueError:
        partial.restart()
        raise
    partial.finish()


class _Partial:
    """The part of a download that has come."""

    def __init__(self, address, path, size=None):
        self.address, self.path, self.size = address, path, size
        self.file, self.note = (path.with_name(path.name + end) for end in (".partial", ".partial.json"))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.origin = json.loads(self.note.read_text())
        except (FileNotFoundError, ValueError):
            self.origin = {}
        if self.origin.get("address") != address or not self.file.is_file():
            self.restart()

    @property
    def have(self):
        return self.file.stat().st_size if self.file.is_file() else 0

    def restart(self):
        """Forgets what has come."""
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.origin = {}

    def require_size(self, found):
        """Raises ValueError where the size of the file is known to be another one."""
        if self.size is not None and found != self.size:
            raise ValueError(f"{self.address}: {found} bytes, expected {self.size}; the file is not used")

    def finish(self):
        """Gives the complete file its name."""
        os.replace(self.file, self.path)
        self.note.unlink(missing_ok=True)

    def go_on(self):
        """One request for the rest of the file.

        Raises:
            OSError, HTTPException: it broke off.
        """
        if self.have and self.have == self.origin.get("size"):
            return
        request = urllib.request.Request(self.address)
        if self.have:
            request.add_header("Range", f"bytes={self.have}-")
            if self.origin.get("validator"):
                request.add_header("If-Range", self.origin["validator"])
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # range not satisfiable: the file is another one now
                raise
            self.restart()
            raise ConnectionError("the file changed while it was downloaded") from None
        with answer:
            origin, start = self._origin(answer)
            if origin["size"]:
                self.require_size(origin["size"])
            if getattr(answer, "status", None) != 206:  # the whole file: the first request, or no ranges there
                self.restart()
                self.origin = origin
                self.note.write_text(json.dumps(origin))
            elif (start, origin["size"]) != (self.have, self.origin["size"]):
                self.restart()
                raise ConnectionError("the file changed while it was downloaded")
            self._append(answer)

    def _origin(self, answer):
        """What an answer says of the file (address, a validator for If-Range, size), and where the answer starts."""
        headers = answer.headers
        tag = headers.get("ETag")
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range") or "")
        start, size = (int(part[1]), int(part[2])) if part else (0, int(headers.get("Content-Length") or 0))
        validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
        return {"address": self.address, "validator": validator, "size": size}, start

    def _append(self, answer):
        size = self.origin["size"]
        bar = tqdm(
            total=size or None, initial=self.have, unit="B", unit_scale=True, desc=self.path.name,
            leave=False, disable=None,
        )  # fmt: skip
        with bar, open(self.file, "ab") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if size and self.have != size:
            raise ConnectionError(f"{self.have} of {size} bytes came")


def _reason(error):
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def digest(path, kind="sha256"):
    """Checksum of a file as "<kind>:<hex digits>"."""
    found = hashlib.new(kind)
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            found.update(block)
    return f"{kind}:{found.hexdigest()}"


def require_checksum(path, checksum, source, mend="the file is not used"):
    """Compares a file's checksum with "sha256:<hex digits>", "md5:...", or hex digits alone.

    With the kind in front of them, the first eight digits or more will do: some file names hold these. ``source`` and
    ``mend`` are the beginning and the end of the error.

    Raises:
        ValueError: it has another one, or the expected one cannot be understood.
    """
    kind, _, digits = checksum.strip().lower().rpartition(":")
    kind = kind or HEX_DIGITS.get(len(digits))
    if kind not in HEX_DIGITS.values() or len(digits) < 8:
        raise ValueError(f"checksum '{checksum}': expected sha256:<64 hex digits> or md5:<32 hex digits>")
    found = digest(path, kind)
    if not found.startswith(f"{kind}:{digits}"):
        raise ValueError(f"{source}: checksum {found}, expected {kind}:{digits}; {mend}")


def _noted(record) -> dict:
    """File name -> address, checksum and bytes of all downloads that a ``downloads.json`` holds.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return json.loads(record.read_text()) if record.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{record}: no JSON ({error}), remove it to have downloads noted anew") from None


def expected_size(path, size=None) -> int | None:
    """Bytes that a file should have: those that are known, else those noted at its download; None: not known."""
    path = Path(path)
    return size if size is not None else _noted(path.parent / RECORD).get(path.name, {}).get("bytes")


def require_right(path, checksum=None, size=None):
    """Compares a file that is there with what is known of it, or was noted at its download.

    Raises:
        ValueError: another size or checksum; the file stays.
    """
    mend = "remove it, and the next call fetches it"
    expected, found = expected_size(path, size), path.stat().st_size
    if expected not in (None, found):
        noted = "" if size is not None else f" as noted in {path.parent / RECORD}"
        raise ValueError(f"{path}: {found} bytes, expected {expected}{noted}; {mend}")
    if checksum:
        require_checksum(path, checksum, path, mend)


def note_or_compare(path, address, fetched=True):
    """Notes the SHA-256 of a file in ``downloads.json`` beside it, or compares it with the one noted at first.

    Args:
        path: of the file.
        address: where it comes from.
        fetched: whether it has just come: with another checksum it is removed again.

    Raises:
        ValueError: another checksum.
    """
    record, found = path.parent / RECORD, digest(path)
    with locked(record):
        known = _noted(record)
        if path.name not in known:
            known[path.name] = {"address": address, "checksum": found, "bytes": path.stat().st_size}
            with replacing(record) as temporary:
                temporary.write_text(json.dumps(known, indent=1))
    if known[path.name]["checksum"] != found:
        if fetched:
            path.unlink()
        expected = f"expected {known[path.name]['checksum']} as noted in {record} at the first download"
        mend = "the file is not used (if it is the right one, remove its entry there)"
        raise ValueError(f"{path}: checksum {found}, {expected}; {mend}")


def forget(path):
    """Removes a downloaded file that turned out to be none, and what was noted of it."""
    record = path.parent / RECORD
    path.unlink(missing_ok=True)
    with locked(record):
        known = _noted(record)
        if known.pop(path.name, None) is not None:
            with replacing(record) as temporary:
                temporary.write_text(json.dumps(known, indent=1))


@contextlib.contextmanager
def locked(path):
    """One process at a time; whoever waited finds the work done, or does it."""
    lock = path.parent / f".{path.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it has removed it: those who wait for the removed file and those who come later must meet.
            if not lock.exists() or os.stat(lock).st_ino != os.fstat(file.fileno()).st_ino:
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def provide(path, address, checksum=None, size=None):
    """Makes sure that the right file is there, if need be by download; of several processes one fetches it.

    Args:
        path, address, checksum, size: see :func:`fetch`; a first download is noted, and later ones must be the same.

    Returns:
        Whether it was fetched; else it was there, and is compared with what is known of it.

    Raises:
        OSError, ValueError: as :func:`fetch`, :func:`note_or_compare` and :func:`require_right`.
    """
    path = Path(path)
    with contextlib.nullcontext() if path.is_file() else locked(path):
        if path.is_file():
            require_right(path, checksum, size)
            return False
        fetch(address, path, checksum, size=size)
        note_or_compare(path, address)
        return True
