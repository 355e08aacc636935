"""Architectures of Hugging Face's transformers, two narrow layers each, with random weights: what counts is the graph.

Every model answers with one tensor. Configurations are said in the words of each family, which is what they take.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tests.benchmarks.exports import matching, settle, vary

Options = dict[str, Any]

WORDS, LENGTH = 100, 12
NO_CACHE: Options = {"use_cache": False}
ANSWERS = ("logits", "last_hidden_state", "image_embeds", "text_embeds", "predicted_depth", "prediction_outputs")

WIDTHS: Options = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT: Options = WIDTHS | {"intermediate_size": 96, "vocab_size": WORDS, "max_position_embeddings": 64}
GROUPED: Options = TEXT | {"num_key_value_heads": 2, "pad_token_id": 0}
IMAGE: Options = WIDTHS | {"intermediate_size": 96, "image_size": 32, "patch_size": 8}
SPEECH: Options = WIDTHS | {
    "intermediate_size": 96,
    "vocab_size": 32,
    "conv_dim": [32] * 7,
    "num_conv_pos_embedding_groups": 4,
    "num_conv_pos_embeddings": 16,
}
STAGES: Options = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
HEADS: Options = {"num_attention_heads": [1, 2, 3, 4]}
WINDOWS: Options = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
GPT: Options = {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": WORDS, "n_positions": 64}
T5: Options = {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": WORDS}
BART: Options = {
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
}


@dataclass(frozen=True)
class Network:
    """A model class and its configuration's, by name; what the configuration is told; the inputs by name and kind."""

    label: str
    model: str
    config: str
    options: Mapping[str, Any]
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of floats; words and their mask where there are none."""
    told: Mapping[str, Any] = field(default_factory=dict)
    masked: bool = True

    def build(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The model in eval mode, and inputs for it; the same at every call."""
        library: Any = importlib.import_module("transformers")
        torch.manual_seed(0)
        owner = library
        for part in self.model.split(".")[:-1]:
            owner = getattr(owner, part)
        module = getattr(owner, self.model.split(".")[-1])(getattr(library, self.config)(**self.options)).eval()
        vary(module)
        if self.inputs:
            settle(module, tuple(self.inputs.values()))
        inputs: dict[str, torch.Tensor] = {name: torch.randn(shape) for name, shape in self.inputs.items()}
        if not inputs:
            inputs["input_ids"] = torch.randint(3, WORDS, (1, LENGTH))
            if self.masked:
                inputs["attention_mask"] = torch.ones(1, LENGTH, dtype=torch.long)
        return _Answer(module, list(inputs), self.told).eval(), tuple(inputs.values())


class _Answer(nn.Module):
    """A model that takes its inputs by place, and answers with one tensor."""

    def __init__(self, model: nn.Module, names: Sequence[str], told: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.names, self.told = model, names, told

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.model(**dict(zip(self.names, inputs, strict=True)), **self.told, return_dict=True)
        found: torch.Tensor = next(
            getattr(outputs, name) for name in ANSWERS if getattr(outputs, name, None) is not None
        )
        return found


def _words(label: str, model: str, config: str, *, masked: bool = True, **options: Any) -> Network:
    return Network(label, model, config, options, masked=masked)


def _decoder(label: str, stem: str, **options: Any) -> Network:
    return Network(label, f"{stem}ForCausalLM", f"{stem}Config", options, told=NO_CACHE)


def _image(label: str, model: str, config: str, side: int = 32, **options: Any) -> Network:
    return Network(label, model, config, options, {"pixel_values": (1, 3, side, side)})


def _classifier(label: str, stem: str, side: int = 32, **options: Any) -> Network:
    return _image(label, f"{stem}ForImageClassification", f"{stem}Config", side, **options)


def _encoder(label: str, stem: str, *, masked: bool = True, **options: Any) -> Network:
    options = TEXT | options
    return _words(label, f"{stem}ForSequenceClassification", f"{stem}Config", masked=masked, **options)


NETWORKS = (
    _encoder("bert", "Bert"),
    _words("bert_mlm", "BertForMaskedLM", "BertConfig", **TEXT),
    _words(
        "distilbert", "DistilBertForSequenceClassification", "DistilBertConfig",
        dim=48, n_layers=2, n_heads=4, hidden_dim=96, vocab_size=WORDS, max_position_embeddings=64,
    ),
    _encoder("roberta", "Roberta"),
    _encoder("xlm_roberta", "XLMRoberta"),
    _encoder("albert", "Albert", embedding_size=24),
    _encoder("electra", "Electra", embedding_size=24),
    _encoder("deberta_v2", "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    _encoder("mobilebert", "MobileBert", embedding_size=24, intra_bottleneck_size=24, intermediate_size=48),
    _encoder("mpnet", "MPNet"),
    _encoder("convbert", "ConvBert", embedding_size=24),
    _encoder("squeezebert", "SqueezeBert", embedding_size=48),
    _encoder("nystromformer", "Nystromformer"),
    _encoder("fnet", "FNet", masked=False),
    _encoder(
        "modernbert", "ModernBert", pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2
    ),
    Network("gpt2", "GPT2LMHeadModel", "GPT2Config", GPT, told=NO_CACHE),
    Network("gptj", "GPTJForCausalLM", "GPTJConfig", GPT | {"rotary_dim": 8}, told=NO_CACHE),
    _decoder(
        "gpt_neo", "GPTNeo", hidden_size=48, num_layers=2, attention_types=[[["global", "local"], 1]], num_heads=4,
        vocab_size=WORDS, max_position_embeddings=64,
    ),
    _decoder("gpt_neox", "GPTNeoX", **TEXT),
    _decoder("opt", "OPT", ffn_dim=96, word_embed_proj_dim=48, **{k: v for k, v in TEXT.items() if k[:3] != "int"}),
    _decoder("bloom", "Bloom", hidden_size=48, n_layer=2, n_head=4, vocab_size=WORDS),
    _decoder("falcon", "Falcon", vocab_size=WORDS, **WIDTHS),
    _decoder("llama", "Llama", **GROUPED),
    _decoder("mistral", "Mistral", **GROUPED),
    _decoder("qwen2", "Qwen2", **GROUPED),
    _decoder("qwen3", "Qwen3", head_dim=16, **GROUPED),
    _decoder("gemma", "Gemma", head_dim=12, **GROUPED),
    _decoder("gemma2", "Gemma2", head_dim=12, **GROUPED),
    _decoder("phi", "Phi", partial_rotary_factor=0.5, **GROUPED),
    _decoder("phi3", "Phi3", **GROUPED),
    _decoder("stablelm", "StableLm", **GROUPED),
    _decoder("olmo", "Olmo", **GROUPED),
    _decoder("cohere", "Cohere", **GROUPED),
    Network(
        "mamba", "MambaForCausalLM", "MambaConfig",
        {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": WORDS, "state_size": 8}, told=NO_CACHE, masked=False,
    ),
    _words("t5_encoder", "T5EncoderModel", "T5Config", **T5),
    Network(
        "bart", "BartForSequenceClassification", "BartConfig",
        BART | {"vocab_size": WORDS, "max_position_embeddings": 64}, told=NO_CACHE, masked=False,
    ),
    Network(
        "whisper_encoder", "models.whisper.modeling_whisper.WhisperEncoder", "WhisperConfig",
        BART | {"max_source_positions": 20, "num_mel_bins": 16}, {"input_features": (1, 16, 40)},
    ),
    Network("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", SPEECH, {"input_values": (1, 4000)}),
    Network("hubert", "HubertForCTC", "HubertConfig", SPEECH, {"input_values": (1, 4000)}),
    _classifier("vit", "ViT", **IMAGE),
    _classifier("deit", "DeiT", **IMAGE),
    _classifier("beit", "Beit", use_relative_position_bias=True, **IMAGE),
    _classifier("dinov2", "Dinov2", **IMAGE),
    _classifier("swin", "Swin", **WINDOWS),
    _classifier("swinv2", "Swinv2", **WINDOWS),
    _classifier("mobilevit", "MobileViT", 64, image_size=64),
    _classifier("mobilevitv2", "MobileViTV2", 64, image_size=64),
    _classifier("levit", "Levit", 224),
    _classifier("poolformer", "PoolFormer", 64, **STAGES),
    _classifier("pvt", "Pvt", 64, image_size=64, **STAGES, **HEADS),
    _classifier("cvt", "Cvt", 64, embed_dim=[16, 32, 48], depth=[1, 1, 1], num_heads=[1, 2, 3]),
    _classifier(
        "focalnet", "FocalNet",
        image_size=32, embed_dim=24, hidden_sizes=[24, 48], depths=[1, 1], focal_levels=[2, 2], focal_windows=[3, 3],
    ),
    _classifier("convnext", "ConvNext", 64, **STAGES),
    _classifier("resnet", "ResNet", 64, embedding_size=16, hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 1, 1]),
    _image("yolos", "YolosForObjectDetection", "YolosConfig", **(IMAGE | {"image_size": [32, 32]})),
    _image(
        "segformer", "SegformerForSemanticSegmentation", "SegformerConfig", 64,
        decoder_hidden_size=32, **STAGES, **HEADS,
    ),
    _image("glpn", "GLPNForDepthEstimation", "GLPNConfig", 64, decoder_hidden_size=16, **STAGES, **HEADS),
    _image(
        "dpt", "DPTForDepthEstimation", "DPTConfig", 64,
        **(IMAGE | {"image_size": 64, "patch_size": 16, "num_hidden_layers": 4}),
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16, is_hybrid=False,
    ),
    _image("clip_vision", "CLIPVisionModelWithProjection", "CLIPVisionConfig", projection_dim=32, **IMAGE),
    _words("clip_text", "CLIPTextModelWithProjection", "CLIPTextConfig", projection_dim=32, eos_token_id=2, **TEXT),
    _image("siglip", "SiglipVisionModel", "SiglipVisionConfig", **IMAGE),
    Network(
        "patchtst", "PatchTSTForPrediction", "PatchTSTConfig",
        {
            "num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8, "prediction_length": 8,
            "d_model": 48, "num_attention_heads": 4, "ffn_dim": 96, "num_hidden_layers": 2, "scaling": None,
        },
        {"past_values": (1, 32, 2)},
    ),
)  # fmt: skip


def chosen(patterns: Sequence[str]) -> list[Network]:
    """The networks that the shell patterns match; all without a pattern."""
    return matching(NETWORKS, patterns)
