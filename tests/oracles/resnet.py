"""A bottleneck ResNet from torchvision's state dict, NCHW, in float64."""

import numpy as np


def convolve(x, weight, stride, pad):
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out_channels, _, kh, kw = weight.shape
    height = (x.shape[1] - kh) // stride + 1
    width = (x.shape[2] - kw) // stride + 1
    out = np.zeros((out_channels, height, width))
    for i in range(kh):
        for j in range(kw):
            window = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            out += np.tensordot(weight[:, :, i, j], window, axes=1)
    return out


def resnet(state, image, *, blocks, epsilon, stride_in_1x1):
    """Return `[C2, C3, C4, C5]` of one normalised image `[3, H, W]`."""
    state = {name: np.asarray(array, np.float64) for name, array in state.items()}

    def layer(x, conv, norm, stride=1, pad=0):
        x = convolve(x, state[f"{conv}.weight"], stride, pad)
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + epsilon)
        shift = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        return x * scale[:, None, None] + shift[:, None, None]

    x = np.maximum(layer(image, "conv1", "bn1", stride=2, pad=3), 0)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height, width = (x.shape[1] - 1) // 2 + 1, (x.shape[2] - 1) // 2 + 1
    corners = [(i, j) for i in range(3) for j in range(3)]
    x = np.max([padded[:, i::2, j::2][:, :height, :width] for i, j in corners], axis=0)

    maps = []
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            y = np.maximum(layer(x, f"{name}.conv1", f"{name}.bn1", first), 0)
            y = np.maximum(layer(y, f"{name}.conv2", f"{name}.bn2", second, pad=1), 0)
            y = layer(y, f"{name}.conv3", f"{name}.bn3")
            if block == 0:
                x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = np.maximum(x + y, 0)
        maps.append(x)
    return maps
