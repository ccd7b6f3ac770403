"""What the K + 1 passes on a public model share: the outputs of a frozen front end."""


def before_passes(encoder, x):
    """What the passes on a batch begin with, computed once for all of them.

    Arguments
    ---------
    encoder : PublicEncoder
        With a frozen front end, or not.
    x : torch.Tensor
        (batch, samples), or (batch, frames, features) for w2v-BERT.

    Returns
    -------
    torch.Tensor
        The front end's outputs (batch, frames, channels) if it is frozen, otherwise x.
    """
    return encoder.latents(x) if encoder.front_end_is_frozen else x


def latents_of(encoder, x):
    """The front end's outputs in a pass, from what :func:`before_passes` returned."""
    return x if encoder.front_end_is_frozen else encoder.latents(x)
