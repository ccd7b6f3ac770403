"""A recipe of the shape that SpeechBrain's CTC recipe for CommonVoice has."""

import sys

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CTCTextEncoder


class ASR(sb.core.Brain):
    def compute_forward(self, batch, stage):
        wavs, wav_lens = batch.to(self.device).sig
        if stage == sb.Stage.TRAIN:
            wavs, wav_lens = self.hparams.wav_augment(wavs, wav_lens)
        feats = self.modules.normalize(self.hparams.compute_features(wavs), wav_lens)
        logits = self.modules.ctc_lin(self.modules.enc(feats))
        return self.hparams.log_softmax(logits), wav_lens

    def compute_objectives(self, predictions, batch, stage):
        p_ctc, wav_lens = predictions
        tokens, tokens_lens = batch.tokens
        if stage == sb.Stage.TRAIN:
            tokens = self.hparams.wav_augment.replicate_labels(tokens)
            tokens_lens = self.hparams.wav_augment.replicate_labels(tokens_lens)
        else:
            found = sb.decoders.ctc_greedy_decode(p_ctc, wav_lens, blank_id=0)
            wanted = sb.utils.data_utils.undo_padding(tokens, tokens_lens)
            self.cer_metric.append(batch.id, found, wanted)
        return self.hparams.ctc_cost(p_ctc, tokens, wav_lens, tokens_lens)

    def on_stage_start(self, stage, epoch):
        if stage != sb.Stage.TRAIN:
            self.cer_metric = self.hparams.cer_computer()

    def on_stage_end(self, stage, stage_loss, epoch):
        if stage == sb.Stage.TRAIN:
            self.losses = [*getattr(self, "losses", []), stage_loss]
        else:
            _, rate = self.hparams.lr_annealing(stage_loss)
            sb.nnet.schedulers.update_learning_rate(self.model_optimizer, rate)
            error = self.cer_metric.summarize("error_rate")
            self.checkpointer.save_and_keep_only({"CER": error}, min_keys=["CER"])

    def init_optimizers(self):
        self.enc_optimizer = self.hparams.enc_opt_class(self.modules.enc.parameters())
        self.model_optimizer = self.hparams.model_opt_class(
            self.modules.ctc_lin.parameters()
        )
        self.checkpointer.add_recoverable("enc_opt", self.enc_optimizer)
        self.checkpointer.add_recoverable("modelopt", self.model_optimizer)
        self.optimizers_dict = {
            "enc_optimizer": self.enc_optimizer,
            "model_optimizer": self.model_optimizer,
        }

    def freeze_optimizers(self, optimizers):
        if self.optimizer_step >= self.hparams.warmup_steps:
            return optimizers
        return {"model_optimizer": optimizers["model_optimizer"]}


def dataio_prepare(hparams, encoder):
    data_folder = hparams["data_folder"]

    train_data = sb.dataio.dataset.DynamicItemDataset.from_csv(
        csv_path=hparams["train_csv"],
        replacements={"data_root": data_folder},
    )

    train_data = train_data.filtered_sorted(sort_key="duration")
    valid_data = sb.dataio.dataset.DynamicItemDataset.from_csv(
        csv_path=hparams["valid_csv"], replacements={"data_root": data_folder}
    )
    datasets = [train_data, valid_data]

    @sb.utils.data_pipeline.takes("wrd")
    @sb.utils.data_pipeline.provides("tokens_list", "tokens")
    def text_pipeline(wrd):
        tokens_list = encoder.encode_sequence([*wrd])
        yield tokens_list
        yield torch.LongTensor(tokens_list)

    read_audio = sb.dataio.dataio.read_audio
    sb.dataio.dataset.add_dynamic_item(datasets, read_audio, "wav", "sig")
    sb.dataio.dataset.add_dynamic_item(datasets, text_pipeline)
    sb.dataio.dataset.set_output_keys(datasets, ["id", "sig", "tokens"])

    train_batch_sampler = None
    if hparams["dynamic_batching"]:
        from speechbrain.dataio.sampler import DynamicBatchSampler  # noqa

        dynamic_hparams_train = hparams["dynamic_batch_sampler_train"]

        train_batch_sampler = DynamicBatchSampler(
            train_data,
            length_func=lambda x: x["duration"],
            **dynamic_hparams_train,
        )

    return train_data, valid_data, train_batch_sampler


def main(argv):
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)

    encoder = CTCTextEncoder()
    encoder.insert_blank(index=0)
    encoder.update_from_iterable(hparams["characters"], sequence_input=False)
    train_data, valid_data, train_bsampler = dataio_prepare(hparams, encoder)

    asr_brain = ASR(
        modules=hparams["modules"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )

    train_dataloader_opts = hparams["dataloader_options"]
    if train_bsampler is not None:
        train_dataloader_opts = {
            "batch_sampler": train_bsampler,
            "num_workers": hparams["num_workers"],
        }

    asr_brain.fit(
        asr_brain.hparams.epoch_counter,
        train_data,
        valid_data,
        train_loader_kwargs=train_dataloader_opts,
        valid_loader_kwargs={"batch_size": 4},
    )
    return asr_brain


if __name__ == "__main__":
    main(sys.argv[1:])
