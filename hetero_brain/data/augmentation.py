"""SpeechBrain's augmentation of waveforms, as a function of seed and iteration."""

import csv
from contextlib import contextmanager
from pathlib import Path

import torch
from speechbrain.augment import time_domain
from speechbrain.dataio.batch import PaddedData

from ..errors import InputError
from ..training.rng import seeded


class WaveformAugmentation:
    """Augments batches before they leave the loader, on the CPU, in fp32.

    What it draws depends on the seed, the iteration and the batch alone: not on what was
    drawn before, nor on the number of ranks or workers.

    Arguments
    ---------
    augmenter : callable
        (waveforms, relative lengths) → the same, augmented, such as SpeechBrain's
        ``Augmenter``, which may also return several versions of each utterance.
    seed : int
        The seed of the run.

    Raises
    ------
    InputError
        Recordings would be read in the order of a file; see :func:`refuse_orders`.
    """

    def __init__(self, augmenter, seed):
        refuse_orders(augmenter)
        self.augmenter, self.seed = augmenter, seed

    @torch.no_grad()
    def __call__(self, batch, step):
        """Augment a batch in place.

        Arguments
        ---------
        batch : PaddedBatch
            With ``id`` and ``sig``; ``tokens``, if there are any, are repeated for
            several versions of an utterance. Other lists have one item per utterance.
        step : int
            The iteration.
        """
        with seeded(self.seed, "augmentation", step, *batch.id), one_thread():
            wavs, lengths = self.augmenter(*batch.sig)
        samples = (lengths * wavs.shape[1]).round().unsqueeze(1)
        inside = (
            torch.arange(wavs.shape[1]) < samples
        )  # resampling rings behind the end
        if len(wavs) != len(batch.id) and hasattr(batch, "tokens"):
            repeated = map(self.augmenter.replicate_labels, batch.tokens)
            batch.tokens = PaddedData(*repeated)
        batch.sig = PaddedData(wavs * inside, lengths)


@contextmanager
def one_thread():
    """PyTorch computes in one thread, as it does in loader workers: sums and Fourier
    transforms are rounded by how they are divided."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def refuse_orders(augmenter):
    """Raise an InputError if SpeechBrain's ``AddNoise`` or ``AddReverb`` would go through
    a file in an order: a resumed run would begin it anew."""
    for module in getattr(augmenter, "augmentations", {}).values():
        name = type(module).__name__
        if type(module) in (time_domain.AddNoise, time_domain.AddReverb):
            if module.csv_file is not None:
                raise InputError(
                    f"wav_augment: SpeechBrain's {name} reads {module.csv_file} in an "
                    "order, of which a run that resumes does not know its place. Write "
                    f"!new:{__name__}.{name}, which takes the same and draws rows anew"
                )


NEEDED = {"ID", "duration", "wav", "wav_format", "wav_opts"}  # columns


def check_file(module):
    """Raise an InputError if the file of ``AddNoise`` or ``AddReverb`` is none that
    SpeechBrain reads."""
    name, path = type(module).__name__, Path(module.csv_file)
    if not path.is_file():
        raise InputError(
            f"{name}: {path}: no such file (in the folder in which the run is started)"
        )
    with open(path, newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file, skipinitialspace=True), [])
    if lacking := sorted(NEEDED - {*columns}):
        raise InputError(f"{name}: {path}: no column {', '.join(lacking)}")


class FromFile:
    """What has recordings of a file, which is checked before any of them is needed.

    Arguments
    ---------
    *args, **kwargs
        As SpeechBrain's.

    Raises
    ------
    InputError
        See :func:`check_file`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.csv_file is not None:  # noise may also be white
            check_file(self)


class AddNoise(FromFile, time_domain.AddNoise):
    """SpeechBrain's, with rows of its file drawn at random for each utterance."""

    def _load_noise(self, lengths, max_length):
        if not hasattr(self, "data_loader"):
            with seeded(0):  # to make a loader draws a number, too
                super()._load_noise(lengths, max_length)
        return super()._load_noise(lengths, max_length)

    def _load_noise_batch_of_size(self, batch_size):
        return drawn_rows(self.data_loader, batch_size).at_position(0)


class AddReverb(FromFile, time_domain.AddReverb):
    """SpeechBrain's, with a row of its file drawn at random for each batch."""

    def _load_rir(self, waveforms):
        if not hasattr(self, "data_loader"):
            with seeded(0):
                super()._load_rir(waveforms)
        self.rir_data = iter([drawn_rows(self.data_loader, 1)])
        return super()._load_rir(waveforms)


def drawn_rows(loader, count):
    """A batch of rows of a loader's dataset, drawn by PyTorch's generator."""
    rows = torch.randint(len(loader.dataset), (count,)).tolist()
    return loader.collate_fn([loader.dataset[row] for row in rows])
