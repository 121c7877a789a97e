"""Dense prediction (DPT): four taps of the backbone become a full-resolution map."""

from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.colour_guide import ColourGuide
from scal3r_ros.network.shapes import Float

AT_ONCE = {"cpu": 4}  # frames that pass a dense head together: they stay in its caches
AT_ONCE_ELSEWHERE = 8  # to bound a GPU's memory


def a_few(
    taps: list[Float[Tensor, "f n c"]], images: Float[Tensor, "f 3 h w"]
) -> list[tuple[list[Tensor], Tensor]]:
    """Of so many frames the few that pass a head together: it treats frames independently."""
    few = AT_ONCE.get(images.device.type, AT_ONCE_ELSEWHERE)
    parts = (slice(i, i + few) for i in range(0, len(images), few))
    return [([tap[part] for tap in taps], images[part]) for part in parts]


def upsample(x: Float[Tensor, "f c h w"], size: tuple[int, int]) -> Float[Tensor, "f c h2 w2"]:
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)


@lru_cache(maxsize=32)
def position_map(
    channels: int,
    height: int,
    width: int,
    aspect: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> Float[Tensor, "1 c h w"]:
    """Sines and cosines of the image position, normalised by the diagonal, times 0.1."""
    with torch.inference_mode(False):  # training may meet it later
        diagonal = (aspect**2 + 1) ** 0.5
        across, down = aspect / diagonal * (width - 1) / width, (height - 1) / diagonal / height
        u = torch.linspace(-across, across, width, device=device)
        v = torch.linspace(-down, down, height, device=device)
        quarter = channels // 4
        omega = 100.0 ** -(torch.arange(quarter, device=device) / quarter)
        u, v = (omega[:, None] * axis for axis in (u, v))  # quarter w, quarter h
        columns = torch.cat([u.sin(), u.cos()])[:, None, :].expand(-1, height, -1)
        rows = torch.cat([v.sin(), v.cos()])[:, :, None].expand(-1, -1, width)
        position = 0.1 * torch.cat([columns, rows])[None]
        return position.to(dtype, memory_format=layout)


def placed(x: Float[Tensor, "f c h w"], aspect: float) -> Float[Tensor, "f c h w"]:
    """With its position added, in x's precision and layout."""
    (channels, height, width), kind = x.shape[1:], (x.device, x.dtype)
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return x + position_map(channels, height, width, aspect, *kind, layout)


class ResidualConv(nn.Module):
    """conv(relu(conv(r))) + r with r = relu(x): the official in-place ReLU reaches the skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c h w"]:
        x = x.relu()
        return self.conv2(self.conv1(x).relu()) + x


class Fusion(nn.Module):
    """Adds a finer level to the coarser result and brings it to the next size."""

    def __init__(self, channels: int, has_skip: bool = True) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        if has_skip:
            self.unit1 = ResidualConv(channels)
        self.unit2 = ResidualConv(channels)

    def forward(
        self,
        x: Float[Tensor, "f c h w"],
        size: tuple[int, int],
        skip: Float[Tensor, "f c h w"] | None = None,
    ) -> Float[Tensor, "f c h2 w2"]:
        if skip is not None:
            x = x + self.unit1(skip)
        # the official order is the other; a 1 x 1 convolution commutes, at a quarter of the cost
        return upsample(self.out_conv(self.unit2(x)), size)


class Output(nn.Module):
    """From the fused feature to `out` channels at image resolution."""

    def __init__(self, features: int, hidden: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(features // 2, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, out, 1)

    def forward(
        self, x: Float[Tensor, "f c h w"], size: tuple[int, int]
    ) -> Float[Tensor, "f o h2 w2"]:
        return self.finish(self.stem(x, size))

    def stem(
        self, x: Float[Tensor, "f c h w"], size: tuple[int, int]
    ) -> Float[Tensor, "f c2 h2 w2"]:
        return placed(upsample(self.conv1(x), size), size[1] / size[0])

    def finish(self, stem: Float[Tensor, "f c h w"]) -> Float[Tensor, "f o h w"]:
        return self.conv3(self.conv2(stem).relu().to(self.conv3.weight.dtype))


class FusedLevels(nn.Module):
    """Four levels, each half the size of the one before, fused from coarse to fine."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.fusion4 = Fusion(features, has_skip=False)
        self.fusion3 = Fusion(features)
        self.fusion2 = Fusion(features)

    def fused(self, levels: list[Float[Tensor, "f d _ _"]]) -> Float[Tensor, "f d h w"]:
        """Down to level 2, in level 1's size."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        x = self.fusion4(levels[3], sizes[2])
        x = self.fusion3(x, sizes[1], levels[2])
        return self.fusion2(x, sizes[0], levels[1])


class DenseTrunk(FusedLevels):
    """The part that every design of head shares: taps to fused features."""

    def __init__(self, dim: int, features: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__(features)
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, c, 1) for c in channels)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.levels = nn.ModuleList(
            nn.Conv2d(c, features, 3, padding=1, bias=False) for c in channels
        )

    def forward(
        self, taps: list[Float[Tensor, "f n c"]], grid: tuple[int, int], aspect: float
    ) -> tuple[Float[Tensor, "f d h w"], Float[Tensor, "f d h w"]]:
        """Feature fused down to level 2, and level 1, both at four times the patch grid."""
        levels = []
        for tap, project, resize, level in zip(
            taps, self.projects, self.resize, self.levels, strict=True
        ):
            x = self.norm(tap.to(self.norm.weight.dtype))
            x = project(rearrange(x, "f (h w) c -> f c h w", h=grid[0]))
            levels.append(level(resize(placed(x, aspect))))
        return self.fused(levels), levels[0]


def doubled(x: Tensor) -> tuple[int, int]:
    return 2 * x.shape[-2], 2 * x.shape[-1]


class DenseHead(nn.Module):
    """The single-hypothesis head of VGGT: raw values, activated by whoever reads them."""

    def __init__(self, trunk: FusedLevels, features: int, out: int, hidden: int = 32) -> None:
        super().__init__()
        self.trunk = trunk
        self.fusion1 = Fusion(features)
        self.output = Output(features, hidden, out)

    def forward(
        self, taps: list[Float[Tensor, "f n c"]], images: Float[Tensor, "f 3 h w"], patch: int
    ) -> Float[Tensor, "f o h w"]:
        height, width = images.shape[-2:]
        fused, finest = self.trunk(taps, (height // patch, width // patch), width / height)
        return self.output(self.fusion1(fused, doubled(fused), finest), (height, width))


def store_head(head: nn.Module, dtype: torch.dtype) -> None:
    """A head in half precision, channels last, which a processor with bfloat16 passes in half the
    time. What it says in the end stays float32: log depths would come in steps of 0.4 %."""
    head.to(dtype=dtype, memory_format=torch.channels_last)
    for module in head.modules():
        if isinstance(module, Output):
            module.conv3.float()
        elif isinstance(module, ColourGuide):
            module.float()


def activate_depth(
    raw: Float[Tensor, "f 2 h w"],
) -> tuple[Float[Tensor, "f h w"], Float[Tensor, "f h w"]]:
    """Depth exp(x0) and confidence 1 + exp(x1)."""
    return raw[:, 0].exp(), 1 + raw[:, 1].exp()


def activate_points(
    raw: Float[Tensor, "f 4 h w"],
) -> tuple[Float[Tensor, "f h w 3"], Float[Tensor, "f h w"]]:
    """Points sign(x) expm1|x| in the submap frame, and confidence 1 + exp(x3)."""
    xyz = rearrange(raw[:, :3], "f c h w -> f h w c")
    return xyz.sign() * xyz.abs().expm1(), 1 + raw[:, 3].exp()
