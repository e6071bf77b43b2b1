import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.data.transforms.augmentation import ColorJitter
from jaxseg.data.transforms.color import random_color_matrix, transform_colors

NO_JITTER = ColorJitter(0.0, 0.0, 0.0, 0.0)
GREY = np.asarray([0.299, 0.587, 0.114])


def random_image(seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8).astype(dtype)


def jittered(jitter, seed, image):
    mean_color = image.reshape(-1, 3).mean(0)
    out = image.copy()
    transform_colors(out, random_color_matrix(np.random.default_rng(seed), jitter, mean_color))
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_no_jitter_changes_nothing(dtype):
    image = random_image(dtype=dtype)
    np.testing.assert_allclose(
        jittered(NO_JITTER, 0, image), image, atol=0 if dtype == np.uint8 else 1e-4
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_colours_stay_in_0_to_255_and_uint8_is_within_1_of_float32(seed):
    strong = ColorJitter(1.0, 1.0, 1.0, 0.5)
    exact = jittered(strong, seed, random_image(seed, np.float32))
    assert exact.min() >= 0
    assert exact.max() <= 255
    np.testing.assert_allclose(jittered(strong, seed, random_image(seed)), exact, atol=1.0)


def drawn_factor(seed, jitter, image, blend):
    """Return the factor `f` for which `blend(f)` is the jittered image."""
    out = jittered(jitter, seed, image)
    factors = np.linspace(0.5, 1.5, 1001)
    errors = [np.abs(np.clip(blend(f), 0, 255) - out).max() for f in factors]
    assert min(errors) < 0.2
    return factors[np.argmin(errors)]


def test_factors_blend_as_in_torchvision():
    """Brightness blends with black, contrast with the mean grey, saturation with the pixel's."""
    image = random_image(0, np.float32)
    grey = image @ GREY.astype(np.float32)
    blends = {
        "brightness": np.zeros_like(image),
        "contrast": np.full_like(image, grey.mean()),
        "saturation": np.repeat(grey[..., None], 3, axis=2),
    }
    for name, other in blends.items():
        jitter = ColorJitter(
            **({"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | {name: 0.4})
        )
        factors = [
            drawn_factor(seed, jitter, image, lambda f, o=other: f * image + (1 - f) * o)
            for seed in range(30)
        ]
        assert 0.595 < min(factors) < 0.75, name
        assert 1.25 < max(factors) < 1.405, name


def test_hue_rotates_and_brightness_stays():
    """The hue of a muted red changes by up to `hue`, measured in HSV, which approximates YIQ."""
    image = np.full((4, 4, 3), (140, 110, 110), np.float32)
    rotated = [jittered(ColorJitter(0.0, 0.0, 0.0, 0.25), seed, image)[0, 0] for seed in range(40)]
    hues = [(colorsys.rgb_to_hsv(*(c / 255).tolist())[0] + 0.5) % 1 - 0.5 for c in rotated]
    assert -0.33 < min(hues) < -0.15
    assert 0.15 < max(hues) < 0.33
    np.testing.assert_allclose([c @ GREY for c in rotated], image[0, 0] @ GREY, atol=0.01)
    grey = np.full((4, 4, 3), 97, np.uint8)
    np.testing.assert_array_equal(jittered(ColorJitter(0.0, 0.0, 0.0, 0.5), 3, grey), grey)


def test_seeds_give_different_colours():
    image = random_image()
    assert (jittered(ColorJitter(), 1, image) != jittered(ColorJitter(), 2, image)).any()
