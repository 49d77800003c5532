"""Tiny models of transformers with random weights, in local folders as their users have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

ADE = {0: "wall", **{number: f"thing {number}" for number in range(1, 150)}}
COCO = {0: "person", **{number: f"thing {number}" for number in range(1, 133)}}
NORMALISED = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def names(labels: dict[int, str]) -> dict[str, Any]:
    return {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}


def lively(model: Any) -> Any:
    """With weights large enough that pictures make a difference."""
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=3.0 if "quer" in name else 1.5 / value[0].numel() ** 0.5)
    return model


def segformer(folder: Path, labels: dict[int, str], licence: str = "apache-2.0") -> Path:
    """Semantic segmentation; with a card that names a licence."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    widths: dict[str, Any] = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4}
    config = SegformerConfig(**widths, decoder_hidden_size=16, **names(labels))
    lively(SegformerForSemanticSegmentation(config)).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}, **NORMALISED).save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A model\n", encoding="utf-8")
    return folder


def _swin() -> Any:
    from transformers import SwinConfig

    stages = [f"stage{number}" for number in range(1, 5)]
    return SwinConfig(image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, out_features=stages)


def mask2former(folder: Path, labels: dict[int, str]) -> Path:
    """Masks and their classes."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

    config = Mask2FormerConfig(
        backbone_config=_swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6, **names(labels),
    )  # fmt: skip
    lively(Mask2FormerForUniversalSegmentation(config)).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 128}
    Mask2FormerImageProcessor(size=size, size_divisor=32, **NORMALISED).save_pretrained(folder)
    return folder


def oneformer(folder: Path, labels: dict[int, str]) -> Path:
    """The same, told its task in words."""
    from transformers import (
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
        OneFormerImageProcessor,
        OneFormerProcessor,
    )

    config = OneFormerConfig(
        backbone_config=_swin(), hidden_dim=32, mask_dim=32, conv_dim=32, encoder_feedforward_dim=16, encoder_layers=1,
        decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6, task_seq_len=77, query_dec_layers=1,
        query_dec_nheads=2, is_training=False, text_encoder_width=16, text_encoder_num_layers=1, **names(labels),
    )  # fmt: skip
    lively(OneFormerForUniversalSegmentation(config)).save_pretrained(folder)
    classes = {str(number): {"isthing": 0, "name": name} for number, name in labels.items()}
    (folder / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    size = {"shortest_edge": 64, "longest_edge": 128}
    looks = OneFormerImageProcessor(
        size=size, repo_path=str(folder), class_info_file="classes.json", num_text=2, **NORMALISED
    )
    OneFormerProcessor(looks, clip_tokens(folder)).save_pretrained(folder)
    return folder


def foreign(folder: Path) -> Path:
    """A model whose repository brings code of its own, which leaves a mark if it is ever run."""
    folder.mkdir(exist_ok=True)
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForSemanticSegmentation": "own.OwnModel"}
    config = {"model_type": "own", "auto_map": {**auto, "AutoModelForDepthEstimation": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "SegformerImageProcessor"}), encoding="utf-8"
    )
    (folder / "own.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n", encoding="utf-8"
    )
    return folder


def clip_tokens(folder: Path) -> Any:
    """A tokenizer of letters."""
    from transformers import CLIPTokenizer

    letters = [chr(code) + end for code in range(97, 123) for end in ("", "</w>")]
    tokens = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def marigold(folder: Path, *, looks: bool = True) -> Path:
    """Normals by diffusion. looks: its UNet takes the picture beside the noise, as Marigold's does."""
    from diffusers import AutoencoderKL, DDIMScheduler, MarigoldNormalsPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder.mkdir(exist_ok=True)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=8 if looks else 4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, norm_num_groups=4, attention_head_dim=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=54,
        bos_token_id=52, eos_token_id=53,
    )  # fmt: skip
    MarigoldNormalsPipeline(
        unet=lively(unet), vae=lively(vae), scheduler=DDIMScheduler(prediction_type="v_prediction"),
        text_encoder=CLIPTextModel(text), tokenizer=clip_tokens(folder), default_denoising_steps=2,
        default_processing_resolution=32,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def dpt(folder: Path) -> None:
    """Depth without a unit."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    config = DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    lively(DPTForDepthEstimation(config)).save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def zoedepth(folder: Path) -> None:
    """Depth in metres."""
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    backbone = BeitConfig(
        image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        out_features=[f"stage{n}" for n in range(1, 5)], reshape_hidden_states=False, use_relative_position_bias=True,
    )  # fmt: skip
    bins = [{"n_bins": 8, "min_depth": 0.001, "max_depth": 10, "name": "nyu"}]
    config = ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, bottleneck_features=8,
        bin_embedding_dim=8, num_attractors=[4, 2, 2, 1], num_relative_features=8, bin_configurations=bins,
    )  # fmt: skip
    lively(ZoeDepthForDepthEstimation(config)).save_pretrained(folder)
    ZoeDepthImageProcessor(size={"height": 64, "width": 96}, ensure_multiple_of=32).save_pretrained(folder)


def sam2(folder: Path, *, sure: bool = True) -> Path:
    """Segment Anything 2. sure: its masks are clear-cut, and it believes in them; else it finds none that it would show."""
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )  # fmt: skip

    folder.mkdir(exist_ok=True)
    backbone = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8], global_attention_blocks=[3],
        window_size_per_stage=[4] * 4, window_positional_embedding_background_size=[4, 4], mlp_ratio=1.0,
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    decoder = Sam2MaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_attention_heads=2, num_hidden_layers=1, iou_head_hidden_dim=16, iou_head_depth=2,
        attention_downsample_rate=1,
    )  # fmt: skip
    prompts = Sam2PromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4)
    model = lively(
        Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    )
    if sure:
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.data *= 300
        model.mask_decoder.iou_prediction_head.proj_out.bias.data += 20
    model.save_pretrained(folder)
    Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def tips(folder: Path) -> Path:
    """Normals of TIPS 2, whose pictures are stretched to a square."""
    from transformers import (
        Tipsv2DptConfig,
        Tipsv2DptForNormalEstimation,
        Tipsv2DptImageProcessor,
        Tipsv2VisionConfig,
    )

    backbone = Tipsv2VisionConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    config = Tipsv2DptConfig(backbone_config=backbone, neck_hidden_sizes=[8] * 4, fusion_hidden_size=8)
    lively(Tipsv2DptForNormalEstimation(config)).save_pretrained(folder)
    Tipsv2DptImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


def sapiens(folder: Path) -> Path:
    """Normals of Sapiens 2, whose pictures get a border."""
    from transformers import Sapiens2Config, Sapiens2ForNormalEstimation, Sapiens2HeadConfig, Sapiens2ImageProcessor

    head = Sapiens2HeadConfig(
        upsample_out_channels=[8] * 4, upsample_kernel_sizes=[3] * 4, conv_out_channels=[8], conv_kernel_sizes=[3],
        use_pixel_shuffle=True,
    )  # fmt: skip
    config = Sapiens2Config(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 48],
        num_first_full_attention_layers=1, num_last_full_attention_layers=1, num_labels=3, head_config=head,
    )  # fmt: skip
    lively(Sapiens2ForNormalEstimation(config)).save_pretrained(folder)
    Sapiens2ImageProcessor(size={"height": 64, "width": 48}, do_pad=True).save_pretrained(folder)
    return folder
