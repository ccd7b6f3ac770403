"""A data loader whose workers end with the run, and whose errors say what happened."""

from torch.utils.data import DataLoader

from .packed import Packed, pack
from .workers import blame_dead_workers, end_at_exit, overdue, worker_options


class WorkerLoader(DataLoader):
    """A ``DataLoader`` that yields the items of a dataset as they are.

    Arguments
    ---------
    dataset : Dataset
        Its items are what the loader yields.
    multiprocessing_context : str
        How workers start; see :func:`worker_options`.
    worker_init_fn : callable, optional
        As for ``DataLoader``.
    **kwargs
        Further arguments of ``DataLoader``, except ``batch_size`` and ``collate_fn``.
    """

    def __init__(
        self,
        dataset,
        multiprocessing_context="forkserver",
        worker_init_fn=None,
        **kwargs,
    ):
        if kwargs.get("num_workers"):
            kwargs |= worker_options(multiprocessing_context, worker_init_fn)
        super().__init__(dataset, batch_size=None, collate_fn=pack, **kwargs)

    def __iter__(self):
        """Yield the items of the dataset as the workers deliver them.

        Raises
        ------
        WorkerDied
            If a worker has ended; says which one, and why.
        """
        iterator = None
        while True:
            try:
                with overdue(self.num_workers):
                    if iterator is None:
                        iterator = super().__iter__()
                        if self.num_workers:
                            end_at_exit(iterator)
                    item = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                # The loader may have failed while it started its workers.
                blame_dead_workers(
                    self._iterator if iterator is None else iterator, error
                )
                raise
            yield item.unpack() if isinstance(item, Packed) else item
