"""A Brain that may train its encoder at another learning rate than its other layers."""

from speechbrain.utils.optimizers import rm_vector_weight_decay
from torch import nn

from ..brain import HeteroBrain


class EncoderRateBrain(HeteroBrain):
    """A :class:`HeteroBrain` with an optimizer for ``encoder``, as in SpeechBrain's
    recipes for wav2vec 2.0, and one for its other modules.

    Reads from ``hparams``: ``encoder_lr``, the learning rate of the encoder, of which the
    schedule makes the same share as of the other layers'. None, or no such key: one
    optimizer for all. ``max_grad_norm`` limits the gradients of each optimizer by itself.
    ``freeze_encoder_iterations``: so many iterations from the start, the encoder rests.
    """

    def encoder_rests(self):
        """Whether the encoder is frozen in this iteration."""
        return self.iteration < self.hparams.freeze_encoder_iterations

    def init_optimizers(self):
        """As SpeechBrain's, or two optimizers of the same class."""
        rate = getattr(self.hparams, "encoder_lr", None)
        if rate is None:
            super().init_optimizers()
            return
        modules = {**self.modules}
        encoder = modules.pop("encoder")
        self.optimizer = self.opt_class(self.to_optimize(nn.ModuleDict(modules)))
        self.encoder_optimizer = self.opt_class(self.to_optimize(encoder), lr=rate)
        self.optimizers_dict = {
            "opt_class": self.optimizer,
            "encoder": self.encoder_optimizer,
        }
        if self.checkpointer is not None:
            for name in ("optimizer", "encoder_optimizer"):
                self.checkpointer.add_recoverable(name, getattr(self, name))

    def to_optimize(self, module):
        """The parameters of a module, in the groups that SpeechBrain's option wants."""
        if self.remove_vector_weight_decay:
            return rm_vector_weight_decay(module)
        return module.parameters()

    def freeze_optimizers(self, optimizers):
        """Without the optimizer of an encoder that rests."""
        resting = {"encoder"} if self.encoder_rests() else set()
        return {k: v for k, v in optimizers.items() if k not in resting}

    def rates(self):
        """With that of the encoder."""
        if "encoder" not in (self.optimizers_dict or {}):
            return super().rates()
        own = self.encoder_optimizer.param_groups[0]["lr"]
        return {**super().rates(), "encoder_lr": own}
