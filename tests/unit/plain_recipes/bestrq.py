"""A recipe of the shape that SpeechBrain's BEST-RQ recipe for LibriSpeech has."""

import sys
from functools import partial

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataloader import SaveableDataLoader
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.lobes.models.BESTRQ import brq_mask_collate_fn

STACK = 4  # frames of a target, which the convolutions make one


class BestRQBrain(sb.core.Brain):
    def compute_forward(self, batch, stage):
        wavs, wav_lens, mask = (tensor.to(self.device) for tensor in batch)
        chunks = self.hparams.dynchunktrain_config_sampler(stage)
        feats = self.modules.normalize(self.hparams.compute_features(wavs), wav_lens)
        feats = torch.nn.functional.pad(feats, (0, 0, 0, -feats.shape[1] % STACK))
        masked = mask[::STACK] // STACK
        targets = self.modules.Quantizer(feats.unflatten(1, (-1, STACK)).flatten(2))
        noise = 0.1 * torch.randn(len(feats), len(mask), feats.shape[2])
        feats[:, mask] = noise.to(feats)
        encoded = self.modules.wrapper(
            self.modules.CNN(feats), wav_lens, dynchunktrain_config=chunks
        )
        logits = self.modules.linear(encoded)[:, masked]
        return logits.flatten(0, 1), targets[:, masked].flatten()

    def compute_objectives(self, predictions, batch, stage):
        logits, targets = predictions
        return torch.nn.functional.cross_entropy(logits, targets)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        if should_step:
            self.hparams.noam_annealing(self.optimizer)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == sb.Stage.TRAIN:
            self.losses = [*getattr(self, "losses", []), stage_loss]
        else:
            self.checkpointer.save_and_keep_only(
                {"valid_loss": stage_loss}, end_of_epoch=True, num_to_keep=3
            )


def dataio_prepare(hparams):
    data_folder = hparams["data_folder"]

    train_data = sb.dataio.dataset.DynamicItemDataset.from_csv(
        csv_path=hparams["train_csv"],
        replacements={"data_root": data_folder},
    )

    train_data = train_data.filtered_sorted(
        sort_key="duration", key_min_value={"duration": 0.1}
    )
    valid_data = sb.dataio.dataset.DynamicItemDataset.from_csv(
        csv_path=hparams["valid_csv"], replacements={"data_root": data_folder}
    )
    datasets = [train_data, valid_data]
    read_audio = sb.dataio.dataio.read_audio
    sb.dataio.dataset.add_dynamic_item(datasets, read_audio, "wav", "sig")
    sb.dataio.dataset.set_output_keys(datasets, ["id", "sig"])

    train_sampler = DynamicBatchSampler(
        train_data,
        hparams["max_batch_len"],
        num_buckets=hparams["train_num_buckets"],
        length_func=lambda x: x["duration"],
        batch_ordering="random",
        shuffle=True,
    )

    collate_fn = partial(
        brq_mask_collate_fn,
        get_out_len_fn=lambda samples: samples // 160 + 1,
        mask_prob=hparams["mask_prob"],
        mask_length=STACK,
        n_mels=hparams["n_mels"],
    )

    train_loader_kwargs = {
        "batch_sampler": train_sampler,
        "collate_fn": collate_fn,
        "num_workers": hparams["num_workers"],
    }

    valid_loader = SaveableDataLoader(valid_data, collate_fn=collate_fn, batch_size=4)
    return train_data, valid_loader, train_loader_kwargs


def main(argv):
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)

    train_dataset, valid_loader, train_loader_kwargs = dataio_prepare(hparams)

    brain = BestRQBrain(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        brain.hparams.epoch_counter,
        train_dataset,
        valid_loader,
        train_loader_kwargs=train_loader_kwargs,
    )
    return brain


if __name__ == "__main__":
    main(sys.argv[1:])
