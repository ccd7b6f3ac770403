"""``--compile``: which modules are compiled, and for which shapes."""

import speechbrain as sb
import torch
from torch.utils._pytree import tree_leaves

DYNAMIC = "compile_using_dynamic_shape_tracing"


class CompilingBrain(sb.Brain):
    """A ``sb.Brain`` whose ``--compile`` compiles once for batches of any length.

    SpeechBrain compiles every module, and each again for every shape that is new, until
    PyTorch gives up after eight. Here the sizes that differ between batches are marked,
    unless hparams or run options decide about dynamic shapes; and without
    ``--compile_module_keys`` only those modules are compiled that have something to
    train. Features and quantizers run once a batch.

    Arguments
    ---------
    modules, opt_class, hparams, run_opts, checkpointer
        As for ``sb.Brain``.
    """

    def __init__(
        self,
        modules=None,
        opt_class=None,
        hparams=None,
        run_opts=None,
        checkpointer=None,
    ):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        options = getattr(run_opts, "overridden_args", run_opts)
        if DYNAMIC not in {*(hparams or ()), *(options or ())}:
            setattr(self, DYNAMIC, None)  # what is marked, which True would add to

    def _compile(self):
        """Called by ``on_fit_start``."""
        if self.compile and self.compile_module_keys is None:
            self.compile_module_keys = [
                name
                for name, module in self.modules.items()
                if any(param.requires_grad for param in module.parameters())
            ]
        super()._compile()
        if self.compile and getattr(self, DYNAMIC) is None:
            for name in self.compile_module_keys:
                self.modules[name].register_forward_pre_hook(
                    mark_sizes, with_kwargs=True
                )


def mark_sizes(module, args, kwargs):
    """Mark the sizes of a module's inputs that differ between batches: all but the last,
    the channels; and the size of vectors. PyTorch compiles a size of 1 by itself."""
    for tensor in tree_leaves((args, kwargs)):
        if isinstance(tensor, torch.Tensor):
            for dim in range(tensor.dim() - (tensor.dim() > 1)):
                if tensor.shape[dim] > 1:
                    torch._dynamo.maybe_mark_dynamic(tensor, dim)
