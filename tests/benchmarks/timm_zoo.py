"""One small model of each of timm's families, with random weights, at the size of image that it was made for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.benchmarks.exports import matching, settle, vary

NAMES = """
    bat_resnext26ts beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_tiny coatnet_nano_rw_224
    convformer_s18 convit_tiny convnext_atto convnextv2_atto crossvit_tiny_240 cs3darknet_m cspdarknet53 cspresnet50
    davit_tiny deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 dla34 dla60_res2net dpn68 eca_nfnet_l0
    ecaresnet26t edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0
    ese_vovnet19b_dw eva02_tiny_patch14_224 fastvit_t8 fbnetc_100 focalnet_tiny_srf gcresnext26ts gcvit_xxtiny gernet_s
    ghostnet_100 ghostnetv2_100 gmlp_s16_224 halonet26t haloregnetz_b hardcorenas_a hgnet_tiny hgnetv2_b0
    hiera_tiny_224 hrnet_w18_small inception_next_tiny inception_v4 lambda_resnet26t lamhalobotnet50ts_256 lcnet_050
    legacy_seresnext26_32x4d levit_128s mambaout_femto maxvit_rmlp_pico_rw_256 mixer_s32_224 mixnet_s mnasnet_small
    mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_hybrid_medium mobileone_s0 mobilevit_xxs mobilevitv2_050
    mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 nfnet_f0 pit_ti_224 poolformer_s12 pvt_v2_b0 rdnet_tiny
    regnetx_002 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resmlp_12_224 resnest14d resnet26t
    resnetrs50 resnetv2_50 rexnet_100 sebotnet33ts_256 sehalonet33ts selecsls42 semnasnet_075 sequencer2d_s
    seresnet50 shvit_s1 skresnet18 spnasnet_100 starnet_s1 swiftformer_xs swin_s3_tiny_224 swinv2_cr_tiny_ns_224
    test_vit tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small
    twins_svt_small visformer_tiny vit_medium_patch16_gap_240 vit_relpos_small_patch16_224
    vit_small_patch16_rope_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 vovnet39a
    xception41 xcit_nano_12_p16_224
"""


@dataclass(frozen=True)
class Network:
    """A model by timm's name."""

    label: str

    def build(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The model in eval mode, and an image for it; the same at every call."""
        timm: Any = importlib.import_module("timm")
        torch.manual_seed(0)
        module = timm.create_model(self.label, pretrained=False, exportable=True).eval()
        shape = (1, *module.default_cfg["input_size"])
        vary(module)
        settle(module, (shape,))
        return module, (torch.randn(shape),)


NETWORKS = tuple(Network(name) for name in NAMES.split())


def chosen(patterns: Sequence[str]) -> list[Network]:
    """The networks that the shell patterns match; all without a pattern."""
    return matching(NETWORKS, patterns)
