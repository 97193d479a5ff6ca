"""Audio files packed into HDF5, in the layout of PaSST: the bytes of one mp3 file per row.

Koutini et al., "Efficient Training of Audio Transformers with Patchout", 2022. A file has

* ``audio_name`` [clips]: file names as bytes, ``Yf62-S-v2swA.mp3``;
* ``mp3`` [clips]: the bytes of a file each, uint8 of any length. They may also be those of a wav or flac file;
* ``target`` [clips, columns]: class labels as packed bits (``numpy.packbits``), or plain numbers.

Handles are opened when they are first used and once per process, so objects may be pickled and used after a fork.
"""

import io
import os

import numpy as np

# Shared with the reading of files: what counts as broken must not depend on where the bytes lie.
from data_util.audio import check_length, decode_by_soundfile, minimp3, require_finite
from data_util.errors import BadAudio, DataMissing, TableError

ENTRIES = ("audio_name", "mp3", "target")


class Hdf5File:
    """Entries of an HDF5 file, which every process opens for itself, once: one that replaces it later is not read.

    Args:
        path: of the file.

    Raises:
        DataMissing: no such file.
        TableError: it is no HDF5 file.
    """

    def __init__(self, path):
        self.path = str(path)
        self._file, self._entries, self._process = None, {}, None

    def __getitem__(self, name):
        # A handle that was opened before a fork must not be used after it.
        if self._process != os.getpid():
            self._file, self._entries, self._process = None, {}, os.getpid()
        if self._file is None:
            self._file = self.open()
        if name not in self._entries:
            self._entries[name] = self._file[name]
        return self._entries[name]

    def open(self):
        """The ``h5py.File``, opened anew."""
        import h5py

        if not os.path.isfile(self.path):
            raise DataMissing(f"no HDF5 file {self.path}")
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise TableError(f"{self.path}: not readable as HDF5 ({str(error).splitlines()[0]})") from None

    def __getstate__(self):
        return {"path": self.path, "_file": None, "_entries": {}, "_process": None}


class Hdf5Audio:
    """Clips of one or several packed files, end to end.

    Args:
        paths: of the files.

    Attributes:
        targets: [clips, columns] as stored.
        attributes: those of the first file.

    Raises:
        DataMissing: no such file.
        TableError: a file is none of that layout, or two differ in the columns of ``target``.
    """

    def __init__(self, paths):
        self.files = [Hdf5File(path) for path in paths]
        parts = [_index(file) for file in self.files]
        widths = {part[1].shape[1:] for part in parts}
        if len(widths) > 1:
            raise TableError(f"{paths[0]} and {paths[-1]}: target has {sorted(widths)} columns, expected the same")
        self._names = np.concatenate([part[0] for part in parts])
        self.targets = np.concatenate([part[1] for part in parts])
        self.attributes = parts[0][2]
        self._ends = np.cumsum([len(part[0]) for part in parts])

    def __len__(self):
        return len(self._names)

    def name(self, index):
        """File name of a clip."""
        return self._names[index].decode()

    def stored(self, index):
        """(path of the packed file, bytes of the clip's own file as uint8).

        Raises:
            BadAudio: the packed file is damaged there.
        """
        part = int(np.searchsorted(self._ends, index, side="right"))
        file = self.files[part]
        row = index - (self._ends[part - 1] if part else 0)
        try:
            return file.path, file["mp3"][row]
        except (OSError, RuntimeError) as error:
            raise BadAudio(f"{file.path}, {self.name(index)}: {str(error).splitlines()[0]}") from None

    def read(self, index, crop=None):
        """Samples [samples, channels] float32 of a clip and their rate; see :func:`data_util.audio.decode`."""
        path, data = self.stored(index)
        return decode_bytes(f"{path}, {self.name(index)}", data, crop)


def decode_bytes(name, data, crop=None):
    """As :func:`data_util.audio.decode`, of a file that lies in memory.

    Args:
        name: what messages call it.
        data: bytes of an audio file, or a uint8 array of them.
        crop: called with samples and sample rate, returns (first sample, samples) of the part to decode.

    Raises:
        BadAudio: it cannot be decoded, ends early, or is shorter than 0.1 s.
    """
    if minimp3() and _is_mp3(data):
        return _decode_mp3(name, data, crop)
    return decode_by_soundfile(name, io.BytesIO(data), crop)


def packed_columns(classes):
    """Columns of ``target`` for so many classes, as packed bits."""
    return -(-classes // 8)


def check_packed(targets, classes, where):
    """Raises TableError unless targets are packed bits of so many classes."""
    columns = packed_columns(classes)
    if targets.dtype != np.uint8 or targets.ndim != 2 or targets.shape[1] != columns:
        found = f"{targets.dtype} of shape {targets.shape}"
        raise TableError(f"{where}: target is {found}, expected {columns} columns of packed bits for {classes} classes")
    spare = 8 * columns - classes
    wrong = np.flatnonzero(targets[:, -1] & ((1 << spare) - 1))
    if wrong.size:
        raise TableError(f"{where}: row {wrong[0]} has a label beyond the {classes} classes that are expected")


def _index(file):
    """Names, targets and attributes of a packed file, which is closed again."""
    import h5py

    with file.open() as opened:
        missing = [entry for entry in ENTRIES if entry not in opened]
        if missing:
            found = ", ".join(opened) or "nothing"
            raise TableError(f"{file.path}: no entry '{missing[0]}' (expected {', '.join(ENTRIES)}; found {found})")
        if h5py.check_vlen_dtype(opened["mp3"].dtype) != np.uint8:
            raise TableError(f"{file.path}: mp3 holds {opened['mp3'].dtype}, expected uint8 of variable length")
        names, targets = opened["audio_name"][:], opened["target"][:]
        clips = len(opened["mp3"])
        if len(names) != clips or len(targets) != clips:
            raise TableError(f"{file.path}: {len(names)} names, {clips} audio files and {len(targets)} targets")
        return names.astype("S"), targets, dict(opened.attrs)


def _is_mp3(data):
    head = bytes(data[:3])
    return head == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


def _decode_mp3(name, data, crop):
    """By minimp3, which decodes no more than is asked for."""
    minimp3py = minimp3()
    broken = (RuntimeError, ValueError, TypeError, getattr(minimp3py, "Mp3Error", RuntimeError))
    try:
        total, _, rate = minimp3py.probe(data)
        check_length(name, total, rate, total)
        start, samples = crop(total, rate) if crop else (0, total)
        audio, _ = minimp3py.read(data, start=start, length=samples)
    except BadAudio:  # a ValueError, too
        raise
    except broken as error:
        raise BadAudio(f"{name}: not readable as audio ({error})") from None
    check_length(name, start + len(audio), rate, start + samples)
    return require_finite(name, audio), rate
