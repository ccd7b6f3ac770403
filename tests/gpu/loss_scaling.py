"""fp16 with a loss scale that is far too large: it falls, training goes on, and a
checkpoint keeps it."""

import math
import tempfile
from pathlib import Path

from .mini import ADAMW, parameters, pretraining_brain, relative_error, speech
from .verdicts import Finding, at_most, equal, skipped

FIRST_SCALE = 2.0**40
MOST = 40  # iterations until gradients are finite
TRAINED = 5  # iterations afterwards


def overflow_and_recovery(device):
    """The findings of a run under fp16, resumed from a checkpoint at its end."""
    if device == "cpu":
        yield skipped("loss scale", "not on a CPU")
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(device=device, precision="fp16", optimizer=ADAMW)
        settings["folder"] = Path(folder)
        brain, parts = pretraining_brain(**settings), speech()
        brain.scaler.load_state_dict(
            {**brain.scaler.state_dict(), "scale": FIRST_SCALE}
        )
        theta, overflows = parameters(brain), 0
        while not math.isfinite(brain.fit_batch(parts).item()):
            overflows += 1
            if overflows == MOST:
                break
            if overflows == 1:
                moved = bool((parameters(brain) != theta).any())
                yield equal("θ moved by an overflow", False, moved)
        scale = brain.scaler.get_scale()
        text = f"from 2^40 to 2^{math.log2(scale):g} in {overflows} iterations"
        fell = 0 < overflows < MOST and scale < FIRST_SCALE
        yield Finding("scale falls until gradients are finite", "-", text, fell)
        theta = parameters(brain)
        losses = [brain.fit_batch(parts).item() for _ in range(TRAINED)]
        text = ", ".join(f"{loss:.4f}" for loss in losses)
        yield Finding("losses", "finite", text, all(map(math.isfinite, losses)))
        changed = float((parameters(brain) != theta).double().mean())
        text = f"{changed:.1%}"
        yield Finding("parameters that change", "above 90 %", text, changed > 0.9)
        brain.checkpointer.save_checkpoint()
        resumed = pretraining_brain(seed=1, **settings)
        saved, loaded = (b.scaler.state_dict() for b in (brain, resumed))
        yield equal("loss scale of a resumed run", saved, loaded)
        after, after_resumed = (b.fit_batch(parts).item() for b in (brain, resumed))
        error = relative_error(after_resumed, after)
        yield at_most("its next loss, relative error", error, 1e-2)
