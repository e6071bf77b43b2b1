import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.data.transforms.augmentation import ColorJitter
from jaxseg.data.transforms.color import change_colors, random_colors

STILL = ColorJitter(0.0, 0.0, 0.0, 0.0)
GREY = np.asarray([0.299, 0.587, 0.114])


def picture(seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8).astype(dtype)


def changed(jitter, seed, image):
    mean = image.reshape(-1, 3).mean(0)
    out = image.copy()
    change_colors(out, random_colors(np.random.default_rng(seed), jitter, mean))
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_without_strength_nothing_changes(dtype):
    image = picture(dtype=dtype)
    np.testing.assert_allclose(
        changed(STILL, 0, image), image, atol=0 if dtype == np.uint8 else 1e-4
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_colours_stay_within_0_to_255_and_uint8_is_float_to_within_1(seed):
    strong = ColorJitter(1.0, 1.0, 1.0, 0.5)
    exact = changed(strong, seed, picture(seed, np.float32))
    assert exact.min() >= 0
    assert exact.max() <= 255
    np.testing.assert_allclose(changed(strong, seed, picture(seed)), exact, atol=1.0)


def factor_of(seed, jitter, image, changed_by):
    """The factor `f` for which `changed_by(f)` is what was drawn."""
    out = changed(jitter, seed, image)
    factors = np.linspace(0.5, 1.5, 1001)
    errors = [np.abs(np.clip(changed_by(f), 0, 255) - out).max() for f in factors]
    assert min(errors) < 0.2
    return factors[np.argmin(errors)]


def test_each_change_is_torchvisions():
    """Brightness blends with black, contrast with the mean grey, saturation with each pixel's."""
    image = picture(0, np.float32)
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
            factor_of(seed, jitter, image, lambda f, o=other: f * image + (1 - f) * o)
            for seed in range(30)
        ]
        assert 0.595 < min(factors) < 0.75, name
        assert 1.25 < max(factors) < 1.405, name


def test_the_hue_turns_and_brightness_stays():
    """A muted red turns as far as told, measured in HSV, which is no more than near YIQ."""
    image = np.full((4, 4, 3), (140, 110, 110), np.float32)
    turned = [changed(ColorJitter(0.0, 0.0, 0.0, 0.25), seed, image)[0, 0] for seed in range(40)]
    hues = [(colorsys.rgb_to_hsv(*(c / 255).tolist())[0] + 0.5) % 1 - 0.5 for c in turned]
    assert -0.33 < min(hues) < -0.15
    assert 0.15 < max(hues) < 0.33
    np.testing.assert_allclose([c @ GREY for c in turned], image[0, 0] @ GREY, atol=0.01)
    grey = np.full((4, 4, 3), 97, np.uint8)
    np.testing.assert_array_equal(changed(ColorJitter(0.0, 0.0, 0.0, 0.5), 3, grey), grey)


def test_draws_differ():
    image = picture()
    assert (changed(ColorJitter(), 1, image) != changed(ColorJitter(), 2, image)).any()
