"""Forward and backward passes as CUDA graphs, which the host launches in one call.

A pass of an encoder consists of some thousands of kernels, and a host that launches each
of them is often slower than the GPU that runs them. A graph holds the kernels of a pass
with the memory that they read and write, so it fits one shape of the inputs: shapes are
rounded up to a few.
"""

import torch
from torch.utils._pytree import tree_map_only


def round_up(size):
    """The next of eight sizes per power of two: at most an eighth larger.

    Example
    -------
    >>> [round_up(size) for size in (7, 15, 33, 100, 130, 399)]
    [7, 15, 36, 104, 144, 416]
    """
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


class PassGraphs:
    """A pass that is captured when a shape comes the second time, and then replayed.

    The first time it is run as usual, so that libraries are set up and a shape that comes
    once costs nothing more.

    Arguments
    ---------
    parameters : callable
        Returns the list of parameters that passes differentiate with respect to: the same
        list until some are frozen or unfrozen, and then another, for which all passes are
        captured anew. Their memory may alternate between several places, as that of θ and
        φ does: each has its own graphs.
    run_pass : callable
        Tensors on the device → (outputs, loss, gradients aligned with the parameters),
        without a wait for the device. Gradients must be used before the next call.
    """

    def __init__(self, parameters, run_pass):
        self.parameters, self.run_pass = parameters, run_pass
        self.start()

    def start(self):
        """Begin without graphs."""
        self.params = self.parameters()
        self.graphs, self.seen, self.pool = {}, set(), None
        self.grads = None  # memory that all graphs share, with the strides of params

    def __call__(self, *inputs):
        """The pass of ``inputs``: (outputs, loss, gradients)."""
        if self.parameters() is not self.params:
            self.start()
        shapes = ((tuple(x.shape), x.dtype) for x in inputs)
        key = self.params[0].data_ptr(), *shapes
        if key not in self.seen:
            self.seen.add(key)
            outputs, *rest = self.run_pass(*inputs)
            # What is left of this pass's autograd graph would tie a later capture to
            # the stream of this pass.
            return tree_map_only(torch.Tensor, torch.detach, outputs), *rest
        if key not in self.graphs:
            self.graphs[key] = self.capture(inputs)
        graph, memory, outputs, loss, present = self.graphs[key]
        for own, given in zip(memory, inputs):
            own.copy_(given)
        graph.replay()
        outputs = tree_map_only(torch.Tensor, torch.clone, outputs)
        grads = [g if there else None for g, there in zip(self.grads, present)]
        return outputs, loss, grads

    def capture(self, inputs):
        """Capture the pass of inputs of these shapes.

        Returns
        -------
        tuple
            The graph, the memory of its inputs, outputs and loss, and which parameters
            have a gradient.
        """
        if self.grads is None:
            self.grads = [torch.empty_like(p.detach()) for p in self.params]
        memory, graph = [x.clone() for x in inputs], torch.cuda.CUDAGraph()
        # Threads that pin batches or watch NCCL go on meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            outputs, loss, grads = self.run_pass(*memory)
            present = [grad is not None for grad in grads]
            pairs = [(a, b) for a, b in zip(self.grads, grads) if b is not None]
            torch._foreach_copy_(*zip(*pairs))
            outputs = tree_map_only(torch.Tensor, torch.detach, outputs)
            loss = loss.detach()
        self.pool = self.pool or graph.pool()
        return graph, memory, outputs, loss, present
