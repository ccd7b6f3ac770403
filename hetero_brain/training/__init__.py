"""The parts of a training run around the algorithm; nothing here is specific to speech.

``resumable`` is the Brain that resumes after any iteration, with the figures of
``monitor``, and ``saved`` what it writes to a checkpoint, beside the ``local_states``.
``checkpoints`` are written through ``files``, checked by ``integrity`` and compared by
``fingerprint``; ``retention`` says which are kept, ``recovery`` which one a run goes on
from. ``parallel`` shares work among ranks, ``gradients`` adds them up, ``weights`` are
θ and φ, ``draws`` what all passes of a local solve draw alike, ``module_state`` what
else they change, and ``solves`` what the local solves of an iteration gave.
``participants`` are the parts of a Brain in a local solve, and ``requirements`` what it
has to meet; ``local_optimizer`` makes the optimizer of local steps. ``geometry``
measures how far PTLOC's update is from CSSL's, ``gram`` the angles between the domains'
gradients, and ``local_lr`` what other local learning rates would do, of which
``local_lr_report`` tells. ``preemption`` handles signals. ``devices`` has copies that
keep nobody waiting, ``graphs`` replays passes, ``compilation`` compiles them, and
``determinism`` has a GPU give the same bits again. ``stopping`` ends a run early.
``loggers``, ``schedules``, ``settings`` and ``rng`` are what their names say.
"""

__all__ = [
    "checkpoints",
    "compilation",
    "determinism",
    "devices",
    "draws",
    "files",
    "fingerprint",
    "geometry",
    "gradients",
    "gram",
    "graphs",
    "integrity",
    "local_lr",
    "local_lr_report",
    "local_states",
    "local_optimizer",
    "loggers",
    "module_state",
    "monitor",
    "parallel",
    "participants",
    "preemption",
    "recovery",
    "requirements",
    "resumable",
    "retention",
    "rng",
    "saved",
    "schedules",
    "settings",
    "solves",
    "stopping",
    "weights",
]
