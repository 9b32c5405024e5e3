"""diffusers' U-Net, and ours with its architecture and its weights."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from pushforward.nets.unet import Cell, UNet

GROUPS, HEAD = 8, 8


def diffusers_unet(
    side: int = 28, widths: tuple[int, ...] = (32, 64, 128), *, channels: int = 1, blocks: int = 1, **options: Any
) -> nn.Module:
    """``UNet2DModel`` as it comes, with attention at the lowest level; at these sizes 2.7 M parameters, 577 MFLOP an image."""
    from diffusers import UNet2DModel

    plain = len(widths) - 1
    return cast(
        nn.Module,
        UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=widths,
            layers_per_block=blocks,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            attention_head_dim=HEAD,
            norm_num_groups=GROUPS,
            **options,
        ),
    )


def like(peer: Any) -> UNet:
    """Our net of the same architecture and with the same weights. Its times are the peer's divided by 1000."""
    config = peer.config
    widths = config.block_out_channels
    net = UNet(
        config.in_channels,
        config.out_channels,
        width=widths[0],
        multipliers=[w // widths[0] for w in widths],
        blocks=config.layers_per_block,
        attention=[i for i, kind in enumerate(config.down_block_types) if "Attn" in kind],
        head_size=config.attention_head_dim,
        groups=config.norm_num_groups,
        layout="ddpm",
        shift_only=config.resnet_time_scale_shift == "default",
    )
    # its k-th of n frequencies is 10000^(-k / n), ours period^(-k / (n - 1))
    half = widths[0] // 2
    time = net.steering.time
    assert time is not None
    time.period = 10000.0 ** ((half - 1) / half)
    copied(time.first, peer.time_embedding.linear_1)
    copied(time.second, peer.time_embedding.linear_2)
    copied(net.stem, peer.conv_in)
    copied(net.norm, peer.conv_norm_out)
    copied(net.last, peer.conv_out)
    for level, cells in enumerate(net.down):
        theirs = peer.down_blocks[level]
        cells_copied(cells, theirs)
        if theirs.downsamplers is not None:
            copied(net.lower[level], theirs.downsamplers[0].conv)
    for level, cells in enumerate(net.up):
        theirs = peer.up_blocks[level]
        cells_copied(cells, theirs)
        if theirs.upsamplers is not None:
            copied(net.lift[level], theirs.upsamplers[0].conv)
    cell_copied(net.middle_in, peer.mid_block.resnets[0], peer.mid_block.attentions[0])
    cell_copied(net.middle_out, peer.mid_block.resnets[1], None)
    return net


def cells_copied(cells: Any, theirs: Any) -> None:
    attentions = getattr(theirs, "attentions", [None] * len(cells))
    for cell, block, attention in zip(cells, theirs.resnets, attentions, strict=True):
        cell_copied(cell, block, attention)


def cell_copied(cell: Cell, block: Any, attention: Any) -> None:
    ours = cell.block
    copied(ours.first_norm, block.norm1)
    copied(ours.first, block.conv1)
    copied(ours.second_norm, block.norm2)
    copied(ours.second, block.conv2)
    copied(ours.modulation, block.time_emb_proj)
    if block.conv_shortcut is not None:
        copied(ours.skip, block.conv_shortcut)
    if attention is not None:
        assert cell.attention is not None
        copied(cell.attention.norm, attention.group_norm)
        copied(cell.attention.query, attention.to_q)
        copied(cell.attention.pair, attention.to_k, attention.to_v)
        copied(cell.attention.out, attention.to_out[0])


@torch.no_grad()
def copied(ours: Any, *theirs: Any) -> None:
    """``ours`` gets the parameters of ``theirs``, several of them below each other."""
    ours.weight.copy_(torch.cat([t.weight for t in theirs]))
    ours.bias.copy_(torch.cat([t.bias for t in theirs]))


def trained_like(module: nn.Module) -> nn.Module:
    """Weights as after training: what starts at zero would hide mistakes, and be no fair load."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.1 if parameter.dim() == 1 else 1 / math.sqrt(parameter[0].numel())
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + spread * noise if parameter.dim() == 1 else spread * noise)
    return module


def answer(peer: Any, x: Tensor, t: Tensor) -> Tensor:
    """The peer's output at our times in [0, 1]."""
    return cast(Tensor, peer(x, t * 1000, return_dict=False)[0])
