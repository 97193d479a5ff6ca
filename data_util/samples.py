"""What one clip is on its way from a file to a loss: the keys of a sample, and where a clip comes from.

A sample is a dict, and a batch is the same dict with a batch axis:

=============  ======================  =======================================================================
key            shape                   meaning
=============  ======================  =======================================================================
``audio``      [samples] float32       the waveform, mono, padded or cropped to the clip length
``strong``     [classes, frames]       frame labels in [0, 1]; zero where nothing is annotated
``weak``       [classes]               clip labels in [0, 1]; active where any frame is, or the weak table says
``pseudo``     [classes, frames]       stored predictions as probabilities; zero when none are used
``valid``      [classes] bool          classes that the source annotates
``source``     int64                   a :class:`Source`
``filename``   str                     path of the audio file
=============  ======================  =======================================================================
"""

from enum import IntEnum


class Source(IntEnum):
    """Where a clip comes from; the first five are the sources of a training batch, in the public order."""

    MAESTRO = 0
    REAL = 1
    SYNTH = 2
    WEAK = 3
    UNLABELED = 4
    DEVTEST = 5  # the real validation set of DESED, on which the challenge system is tested


TRAINING_SOURCES = (Source.MAESTRO, Source.REAL, Source.SYNTH, Source.WEAK, Source.UNLABELED)
