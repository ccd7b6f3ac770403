"""What an encoder makes of recordings of any length, of any of its layers, as files."""

import io
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..data.progress import Progress
from ..data.recordings import file_names
from ..data.streaming import Windows, batches, padded
from ..errors import InputError
from ..training.files import UNFINISHED, sync, write_atomically

HDF5 = (".h5", ".hdf5")


def chosen(words, encoder):
    """The numbers of layers that the command line names, or None for the output."""
    if words is None:
        return None
    probe = torch.zeros(1, encoder.sample_rate, device=device_of(encoder))
    n_layers = len(encoder(probe)[2])
    if words == ["all"]:
        return [*range(n_layers)]
    try:
        layers = [int(word) for word in words]
        return [range(n_layers)[layer] for layer in layers]
    except (ValueError, IndexError):
        raise InputError(
            f"--layers {' '.join(words)}: this encoder has 0 to {n_layers - 1}, or all"
        ) from None


def device_of(module):
    """Where the parameters of a module are."""
    return next(module.parameters()).device


@torch.no_grad()
def features(
    encoder, rows, layers=None, window_seconds=30, batch_seconds=120, progress=None
):
    """What an encoder makes of recordings of any length.

    A recording of up to ``window_seconds`` is encoded as a whole. A longer one is encoded
    in windows that overlap by a third, and joined at the centres of the overlaps.

    Arguments
    ---------
    encoder : SpeechEncoder
        From :func:`~hetero_brain.models.speech_encoder.load_encoder`.
    rows : Recordings
        Rows as of a manifest.
    layers : list of int
        Which of its layers; None: its output.
    window_seconds, batch_seconds : float
        Longest window, and audio in a batch.
    progress : Progress
        Counts audio, and recordings that could not be read, which are left out.

    Yields
    ------
    row : dict
        The recording.
    encoded : torch.Tensor
        (frames, ``output_size``) or (layers, frames, ``output_size``), on the CPU.
    """
    progress, parts = progress or Progress(rows), []
    rate, frame = encoder.sample_rate, encoder.features.frame_samples
    cut = Windows(rate, frame, window_seconds)
    for batch in batches(cut.of(rows), rate, batch_seconds):
        outputs = iter(
            encoded_windows(encoder, [w for w in batch if not w.error], layers)
        )
        for window in batch:
            if window.error is None:
                out = next(outputs)
                first, last = cut.kept(window, out.shape[-2])
                parts.append(out[..., first:last, :])
                progress.advance(cut.new_samples(window) / rate)
                if window.last:
                    yield window.row, torch.cat(parts, dim=-2)
            if window.last:
                progress.finish(window.error)
                parts = []


def encoded_windows(encoder, windows, layers):
    """Encodings of windows, without padding, on the CPU; see :func:`features`."""
    if not windows:
        return []
    wavs, wav_lens = (tensor.to(device_of(encoder)) for tensor in padded(windows))
    encoded, lengths, hidden = encoder(wavs, wav_lens)
    if layers is not None:
        encoded = torch.stack([hidden[layer] for layer in layers], dim=1)
    encoded = encoded.float().cpu()
    return [one[..., :n, :] for one, n in zip(encoded, lengths.tolist())]


def check_output(path, kind, rows):
    """Check that features can be written to a path as it is asked.

    Arguments
    ---------
    path, kind : str
        ``--output`` and ``--format``.
    rows : Recordings
        What is to be encoded.

    Returns
    -------
    dict or None
        Of a folder: ID of a recording → name of its file.

    Raises
    ------
    InputError
        They cannot be written.
    """
    path, names = Path(path), None
    if path.suffix in (".pt", *HDF5):
        counts = Counter(row["ID"] for row in rows)
        if twice := [key for key, count in counts.items() if count > 1]:
            raise InputError(f"--output: {path}: {twice[0]} is given twice")
    if path.suffix in HDF5:
        hdf5()
    elif path.suffix == ".npy" and not path.is_dir():
        if (count := sum(1 for _ in rows)) > 1:
            raise InputError(
                f"--output: {path} is for a single recording, but there are {count}; "
                "give a folder, .pt or .h5"
            )
    elif path.suffix != ".pt":
        names = file_names(rows, f".{kind}")
        if path.exists() and not path.is_dir():
            raise InputError(
                f"--output: {path} is a file; it takes .pt, .h5, .npy or a folder"
            )
        path.mkdir(parents=True, exist_ok=True)
    if not path.parent.is_dir():
        raise InputError(f"--output: there is no folder {path.parent}")
    return names


def hdf5():
    """The package h5py, or an InputError that names its extra."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "--output: HDF5 needs h5py; install the extra hdf5: "
            "pip install 'hetero_brain[hdf5]'"
        ) from error
    return h5py


@contextmanager
def writing(path, kind, names):
    """A function that writes the encodings of a recording; files appear when they are
    whole.

    Arguments
    ---------
    path, kind : str
        Checked by :func:`check_output`.
    names : dict
        What that has returned.

    Yields
    ------
    callable
        Takes the ID of a recording and a tensor.
    """
    path = Path(path)
    if path.suffix == ".pt":
        found = {}
        yield found.__setitem__
        write_atomically(path, as_bytes(found, "pt"))
    elif path.suffix in HDF5:
        draft = path.with_name(f"{UNFINISHED}{path.name}")
        with hdf5().File(draft, "w") as file:
            yield lambda key, encoded: file.create_dataset(key, data=encoded.numpy())
        sync(draft)
        draft.replace(path)
    elif names is None:
        yield lambda _, encoded: write_atomically(path, as_bytes(encoded, "npy"))
    else:
        yield lambda key, encoded: write_atomically(
            path / names[key], as_bytes(encoded, kind)
        )


def as_bytes(value, kind):
    """A tensor, or a dict of them, as the contents of a file."""
    file = io.BytesIO()
    if kind == "pt":
        torch.save(value, file)
    else:
        np.save(file, value.numpy())
    return file.getvalue()
