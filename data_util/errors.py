"""Errors of the data sets: one line each, naming the file or config entry and what was expected."""


class DataMissing(FileNotFoundError):
    """A folder, table or some of the audio files that a data set needs are not there."""


class TableError(ValueError):
    """A table cannot be used: a column is missing, a class is unknown, a number is none."""


class BadAudio(ValueError):
    """An audio file cannot be decoded, ends early, or is too short to hold anything."""


class WrongSampleRate(ValueError):
    """An audio file has another sample rate than asked for, and resampling was not allowed."""
