"""What is meant by a key that a YAML does not have."""

from ..errors import meant

# What SpeechBrain's recipes call something → what it is called here.
OF_SPEECHBRAIN = {
    "avoid_if_longer_than": ("max_utterance_seconds",),
    "batch_size": ("global_batch_seconds",),
    "augmentation": ("wav_augment", "augment"),
    "ctc_weight_decode": ("search_ctc_weight",),
    "fea_augment": ("augment",),
    "lr": ("cssl_lr", "ptloc_lr"),
    "lr_adam": ("lr", "cssl_lr", "ptloc_lr"),
    "lr_wav2vec": ("encoder_lr",),
    "lr_wav2vec2": ("encoder_lr",),
    "max_batch_length": ("global_batch_seconds",),
    "max_batch_len": ("global_batch_seconds",),
    "n_epochs": ("epochs", "cssl_epochs", "ptloc_epochs"),
    "n_warmup_steps": ("warmup_iterations",),
    "number_of_epochs": ("epochs", "cssl_epochs", "ptloc_epochs"),
    "output_neurons": ("vocab_size",),
    "save_folder": ("output_folder",),
    "speeds": ("speed_changes",),
    "test_batch_size": ("eval_batch_seconds",),
    "test_beam_size": ("beam_size",),
    "test_csv": ("data_folder",),
    "token_type": ("unit",),
    "train_csv": ("data_folder",),
    "valid_batch_size": ("eval_batch_seconds",),
    "valid_csv": ("data_folder",),
    "wav2vec2_hub": ("source",),
}


def no_such_key(key, keys, path, prefix=""):
    """What to say of a key that is unknown.

    Arguments
    ---------
    key : str
        The key.
    keys : mapping
        Those that there are.
    path : str or Path
        The YAML.
    prefix : str
        What stands before a key on the command line.

    Returns
    -------
    str
        That there is no such key, and which is or may be meant.
    """
    if ours := [name for name in OF_SPEECHBRAIN.get(key, ()) if name in keys]:
        return f"there is no such key; here it is {prefix}{f' or {prefix}'.join(ours)}"
    if near := meant([key], map(str, keys), prefix):
        return f"there is no such key{near}"
    if "judges" in keys:
        return (
            f"there is no such key; as an option of a judge: --judges.NAME.options "
            f"'--{key} …', of pre-training: --pretrain.options '--{key} …'"
        )
    return f"there is no such key, nor one like it; {path} has them all"
