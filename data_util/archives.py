"""Archives that write nowhere but where they are told to, and data sets that come out of them."""

import logging
import lzma
import os
import re
import shutil
import stat
import urllib.parse
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from data_util.errors import DataMissing
from helpers.downloads import RETRIES, WAIT, fetch, forget, locked, note_or_compare, require_checksum
from helpers.files import replacing

logger = logging.getLogger(__name__)

RECORD = "downloads.json"
MAGIC_7Z = b"7z\xbc\xaf\x27\x1c"
WRAP = 1 << 32


class BadArchive(ValueError):
    """An archive cannot be unpacked, or would write where it must not."""


class ByHand(BadArchive):
    """An archive that may well be sound cannot be unpacked by this program as it is installed."""


def unpack(archive, folder):
    """Unpacks a zip or 7z archive below ``folder``: all of it or nothing, and nothing elsewhere.

    Raises:
        BadArchive: a member would land outside the folder or is a link, or the archive is damaged; :class:`ByHand`
            where it is locked or packed in an unknown way, or is a 7z and the package py7zr is not installed.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".{archive.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _extract(archive, staging)
        _move(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(archive, staging):
    with open(archive, "rb") as file:
        extract = _extract_7z if file.read(len(MAGIC_7Z)) == MAGIC_7Z else _extract_zip
    try:
        extract(archive, staging)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise BadArchive(f"{archive}: damaged ({error}), nothing was unpacked") from None
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        place = os.path.relpath(error.filename, staging)
        raise BadArchive(f"{archive}: members clash at '{place}', a file and a folder; nothing was unpacked") from None
    except (NotImplementedError, RuntimeError) as error:
        raise ByHand(f"{archive}: {error}; nothing was unpacked, do it by hand") from None


def _extract_zip(archive, staging):
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            _require_harmless(archive, member.filename, kind not in (0, stat.S_IFREG, stat.S_IFDIR))
        _mend_offsets(content)
        for member in tqdm(members, f"unpacking {archive.name}", disable=None):
            content.extract(member, staging)


def _mend_offsets(content):
    """Restores the places of members in a zip of more than 4 GiB without the fields for that.

    The archive tool of macOS writes such; the offsets have lost their upper bits, and zipfile takes the end of the
    archive for a measure of all of them. Members stand in the order of the directory.
    """
    if content.start_dir < WRAP:
        return
    with open(content.filename, "rb") as file:
        signatures = []
        for member in content.infolist():
            file.seek(member.header_offset)
            signatures.append(file.read(4))
    if set(signatures) <= {b"PK\x03\x04"}:
        return
    first = 0
    for member in content.infolist():
        offset = member.header_offset % WRAP
        member.header_offset = first + (offset - first) % WRAP
        if hasattr(member, "_end_offset"):  # newer versions of zipfile derive it from the wrong offsets
            member._end_offset = None
        first = member.header_offset


def _extract_7z(archive, staging):
    try:
        import py7zr
    except ModuleNotFoundError:
        raise ByHand(f"{archive}: to unpack 7z, install the package py7zr") from None
    try:
        with py7zr.SevenZipFile(archive) as content:
            for member in content.files:
                special = member.is_symlink or member.is_junction or member.is_socket
                _require_harmless(archive, member.filename, special)
            logger.info("unpacking %s", archive)
            content.extractall(staging)
    except py7zr.exceptions.PasswordRequired:
        raise ByHand(f"{archive}: it needs a password; nothing was unpacked, do it by hand") from None
    except py7zr.exceptions.ArchiveError as error:
        raise BadArchive(f"{archive}: not readable as 7z ({error}), nothing was unpacked") from None


def _require_harmless(archive, name, special):
    """Refuses links and devices, absolute names, drives, and ways upwards."""
    steps = name.replace("\\", "/").split("/")
    if steps[0] == "" or ".." in steps or re.match("[A-Za-z]:", name) or "\0" in name:
        raise BadArchive(f"{archive}: '{name}' would be written outside its folder; nothing was unpacked")
    if special:
        raise BadArchive(f"{archive}: '{name}' is a link or a device, expected files alone; nothing was unpacked")


def _move(staging, folder):
    """Moves what is in ``staging`` into ``folder``, over files of the same names."""
    for entry in sorted(staging.iterdir()) if staging.is_dir() else []:
        target = folder / entry.name
        if entry.is_dir() and target.is_dir():
            _move(entry, target)
        else:
            os.replace(entry, target)


# -- data sets --------------------------------------------------------------------------------------------------------
def provide(folder, address, holds, checksum=None, download=True, retries=RETRIES, wait=WAIT):
    """Makes sure that the folder of a data set is there: if need be, from its archive beside it, or by download.

    The SHA-256 of the first download is noted in ``downloads.json`` beside the folder, and that of any later one is
    compared with it. Of several processes one does the work and the others wait. A downloaded archive is removed when
    it is unpacked, or turns out to be none, one that was there is kept.

    Args:
        folder: of the data set; what is there is left alone.
        address: of its archive, zip or 7z.
        holds: name of a file or folder by which the data set is known inside the archive.
        checksum: of the archive, see :func:`fetch`.
        download: whether that is allowed.
        retries, wait: see :func:`fetch`.

    Raises:
        DataMissing: it is not there and cannot be had; the line says what to put where.
        ValueError: another checksum; or :class:`BadArchive`.
    """
    folder = Path(folder).expanduser()
    if folder.is_dir():
        return
    archive = folder.parent / Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    by_hand = f"put {archive.name} ({address}) into {folder.parent}, or its content into {folder}"
    if not archive.is_file() and not download:
        raise DataMissing(f"no folder {folder}: {by_hand}")
    with locked(folder):
        if folder.is_dir():
            return
        fetched = not archive.is_file()
        if fetched:
            try:
                fetch(address, archive, checksum, retries, wait)
            except OSError as error:
                raise DataMissing(f"no folder {folder}, and no download ({error}): {by_hand}") from None
        elif checksum:
            require_checksum(archive, checksum, archive)
        note_or_compare(archive, address, fetched)
        try:
            _unpack_as(folder, archive, holds)
        except ByHand:
            raise
        except BadArchive:
            if fetched:
                forget(archive)  # the next call would find it there
            raise
        if fetched:
            archive.unlink()


def _unpack_as(folder, archive, holds):
    """The folder that ``holds`` stands in, in an archive, becomes ``folder``."""
    with replacing(folder) as staging:
        try:
            unpack(archive, staging)
            tops = sorted((path.parent for path in staging.rglob(holds)), key=lambda path: len(path.parts))
            if not tops:
                raise BadArchive(f"{archive}: no '{holds}' in it, expected one")
            if tops[0] == staging:
                return
            top = staging.with_name(f"{staging.name}.top")
            os.replace(tops[0], top)
            shutil.rmtree(staging)
            os.replace(top, staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
