"""The cross-domain autoencoder's networks: tokens -> a few features -> the cell's crop."""

from torch import Tensor, nn

# (channels out, kernel, stride) of the transposed convolutions after the first; the side grows
# 5 -> 12 -> 14 -> 31 -> 63 -> 127, then a 2 px kernel adds the last pixel. Each crop size stops where it is reached.
_GROWTH = ((200, 4, 2), (256, 3, 1), (200, 5, 2), (180, 3, 2), (150, 3, 2))
_STEPS = {32: 3, 64: 4, 128: 5}
CROP_SIZES = tuple(_STEPS)


def _unit(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class ConvAutoencoder(nn.Module):
    """BC-SAM's autoencoder, for any token width and grid.

    Parameters
    ----------
    token_width : int
        Channels C of the token maps.
    n_components : int
        Length of the feature vector.
    crop_size : {32, 64, 128}
        Side of the reconstructed crop in pixels; the paper's is 128.

    References
    ----------
    Li et al., "Towards Cross-Domain Single Blood Cell Image Classification via Large-Scale LoRA-based Segment
    Anything Model", ISBI 2024.
    """

    def __init__(self, token_width: int, n_components: int = 50, crop_size: int = 128) -> None:
        super().__init__()
        if crop_size not in _STEPS:
            raise ValueError(f"Got crop_size={crop_size} but expected one of {CROP_SIZES}.")
        self.token_width, self.n_components, self.crop_size = token_width, n_components, crop_size
        self.encoder = nn.Sequential(
            _unit(nn.Conv2d(token_width, 256, 1), 256),
            _unit(nn.Conv2d(256, 256, 3, stride=2, padding=1), 256),
            _unit(nn.Conv2d(256, n_components, 1), n_components),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        layers: list[nn.Module] = [_unit(nn.ConvTranspose2d(n_components, 150, 5), 150)]
        width = 150
        for channels, kernel, stride in _GROWTH[: _STEPS[crop_size]]:
            layers.append(_unit(nn.ConvTranspose2d(width, channels, kernel, stride), channels))
            width = channels
        layers += [_unit(nn.ConvTranspose2d(width, 128, 2), 128), nn.ConvTranspose2d(128, 3, 1), nn.Sigmoid()]
        self.decoder = nn.Sequential(*layers)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens BxCxhxw -> features BxF."""
        return self.encoder(tokens)

    def decode(self, features: Tensor) -> Tensor:
        """Features BxF -> crops Bx3xSxS in [0, 1]."""
        return self.decoder(features[:, :, None, None])

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens -> (features, crops)."""
        features = self.encode(tokens)
        return features, self.decode(features)
