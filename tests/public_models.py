"""Tiny models of the paper preset's own classes with random weights, saved as their libraries save them: no network."""

from pathlib import Path

WORDS = "a an the sad happy slow fast piano violin organ flute melody music for in of with and loud soft dance".split()
SECONDS = 1  # of one of MuQ's clips here; the published model's are 10


def save_tokenizer(folder: Path, kind: str) -> None:
    """A word-level tokenizer in the format of XLM-RoBERTa's or T5's fast one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast, XLMRobertaTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"] if kind == "roberta" else ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    begin, names = ("<s> ", ["<s>", "</s>"]) if kind == "roberta" else ("", ["</s>"])
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin}$A </s>", special_tokens=[(name, vocabulary[name]) for name in names]
    )
    make = XLMRobertaTokenizerFast if kind == "roberta" else T5TokenizerFast
    more = {} if kind == "roberta" else {"extra_ids": 0}
    make(tokenizer_object=made, **more).save_pretrained(folder)


def save_t5(folder: Path, width: int = 32) -> Path:
    """A T5 encoder with its tokenizer."""
    import torch
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    shape = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 3 + len(WORDS)}
    T5EncoderModel(T5Config(**shape, feed_forward_proj="gated-gelu")).save_pretrained(folder)
    save_tokenizer(folder, "t5")
    return folder


def save_muq(folder: Path, dim: int = 512) -> Path:
    """A MuQ-MuLan in folder/MuQ-MuLan-large, its two backbones beside it, all named as on the hub."""
    import torch
    from muq import MuQ, MuQConfig, MuQMuLan
    from transformers import Wav2Vec2ConformerConfig, XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    conformer = Wav2Vec2ConformerConfig(**small, position_embeddings_type="rotary").to_dict()
    conformer = {k: v for k, v in conformer.items() if not isinstance(v, dict)}
    stat = {"melspec_2048_mean": 6.8, "melspec_2048_std": 18.4, "melspec_2048_cnt": 1}
    audio = MuQConfig(
        codebook_size=16, conv_dim=16, encoder_dim=32, encoder_depth=2, stat=stat, w2v2_config=conformer
    )  # fmt: skip
    MuQ(audio).save_pretrained(folder / "MuQ-large-msd-iter")
    text = XLMRobertaConfig(**small, vocab_size=4 + len(WORDS), max_position_embeddings=42, pad_token_id=1)
    XLMRobertaModel(text).save_pretrained(folder / "xlm-roberta-base")
    save_tokenizer(folder / "xlm-roberta-base", "roberta")
    tower = {"dim": 32, "tf_depth": 1, "heads": 2, "dim_head": 16, "attn_dropout": 0.0, "ff_dropout": 0.0, "ff_mult": 2}

    def config(audio_name: str, text_name: str) -> dict:
        return {
            "mulan": {"sr": 24000, "clip_secs": SECONDS, "dim_latent": dim},
            "audio_model": {"name": audio_name, "model_dim": 32, "use_layer_idx": -1},
            "text_model": {"name": text_name, "model_dim": 32},
            "audio_transformer": tower,
            "text_transformer": {**tower, "max_seq_len": 1024},
        }

    network = MuQMuLan(config(str(folder / "MuQ-large-msd-iter"), str(folder / "xlm-roberta-base")))
    network.save_pretrained(folder / "MuQ-MuLan-large", config=config("OpenMuQ/MuQ-large-msd-iter", "xlm-roberta-base"))
    return folder / "MuQ-MuLan-large"


def save_oobleck(folder: Path, channels: int = 32) -> Path:
    """An Oobleck in folder/vae, as a Stable Audio Open pipeline holds it: hop 2048, 44.1 kHz stereo."""
    import torch
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    AutoencoderOobleck(
        encoder_hidden_size=2 * channels, downsampling_ratios=[2, 4, 4, 8, 8], channel_multiples=[1, 1, 1, 1, 1],
        decoder_channels=8, decoder_input_channels=channels, audio_channels=2, sampling_rate=44100,
    ).save_pretrained(folder / "vae")  # fmt: skip
    return folder
