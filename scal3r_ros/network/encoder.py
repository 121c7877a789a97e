"""DINOv2-style image encoder: patch tokens of each frame, independent of all others."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.layers import Block
from scal3r_ros.network.shapes import Float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """Vision transformer with a class token and registers, both dropped at the end."""

    def __init__(
        self, dim: int, depth: int, heads: int, patch: int, grid: int, layer_scale: float
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + grid * grid, dim) * 0.02)
        self.register_tokens = nn.Parameter(torch.randn(1, 4, dim) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # in the checkpoint, never read
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.blocks = nn.ModuleList(
            Block(dim, heads, eps=1e-6, layer_scale=layer_scale) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        # never on meta: they are in no checkpoint that could bring them
        mean, std = (torch.tensor(v, device="cpu") for v in (IMAGENET_MEAN, IMAGENET_STD))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f n c"]:
        """Patch tokens, row-major; h and w are multiples of the patch size."""
        tokens = self.patch_embed((images - self.mean) / self.std)
        rows, columns = tokens.shape[-2:]
        tokens = rearrange(tokens, "f c h w -> f (h w) c") + self.positions(rows, columns)
        leading = torch.cat([self.cls_token + self.pos_embed[:, :1], self.register_tokens], dim=1)
        x = torch.cat([leading.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, leading.shape[1] :]

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 n c"]:
        """Position embedding of a grid: bicubic with antialias unless it is the trained one."""
        grid = self.pos_embed[:, 1:]
        if (rows, columns) == (self.grid, self.grid):
            return grid
        grid = rearrange(grid.float(), "1 (h w) c -> 1 c h w", h=self.grid)
        resized = functional.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
        return rearrange(resized, "1 c h w -> 1 (h w) c").to(self.pos_embed.dtype)
