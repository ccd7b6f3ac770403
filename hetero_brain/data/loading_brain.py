"""A Brain that makes its training loader."""

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset

from ..errors import InputError
from ..training.resumable import ResumableBrain
from .domain_loader import domain_loader


class LoadingBrain(ResumableBrain):
    """A :class:`ResumableBrain` whose ``fit`` makes global batches of a dataset."""

    @classmethod
    def loader_drawer(cls, modules, hparams):
        """What draws for each batch in loader workers, as for
        :func:`~hetero_brain.domain_batch.drawn`; None if they draw nothing.

        Arguments
        ---------
        modules, hparams : dict
            Those of the Brain. The result must hold none of the modules, since it is sent
            to the workers.
        """
        return None

    def make_dataloader(self, dataset, stage, ckpt_prefix="dataloader-", **kwargs):
        """As SpeechBrain's, except for training.

        With ``domain_key``, the training loader is a :func:`domain_loader`. Without it,
        the items of the training set are global batches already, unless ``batch_size`` or
        ``batch_sampler`` is given for a ``collate_fn`` that makes global batches.

        Raises
        ------
        InputError
            The training set needs ``domain_key``; or see :func:`domain_loader`.
        """
        if stage == sb.Stage.TRAIN:
            if "domain_key" in kwargs:
                return domain_loader(dataset, **kwargs)
            if isinstance(dataset, DynamicItemDataset) and "collate_fn" not in kwargs:
                raise InputError(
                    "train_loader_kwargs: add domain_key, the key of the training set "
                    "that holds the domain of each row"
                )
            if kwargs.get("batch_sampler") is None and "batch_size" not in kwargs:
                kwargs["batch_size"] = None
                kwargs.pop("drop_last", None)  # PyTorch allows it only with batches
        return super().make_dataloader(dataset, stage, ckpt_prefix, **kwargs)
