"Bright air is found inside borders and padding; white borders, padding and white breasts are not taken for it."
import cv2
import numpy as np
import pytest

from mammo_kit.dicom import Header
from mammo_kit.faults import HEALTHY, healthy
from mammo_kit.header_checks import check_background

HEADER = Header(modality="MG", photometric_interpretation="MONOCHROME2")


def padded(grey, value, share):
    "A picture between two bands, as a film on a square."
    each = round(share * len(grey))
    return cv2.copyMakeBorder(grey, 0, 0, each, each, cv2.BORDER_CONSTANT, value=value)


def framed(grey, value, share):
    grey, k = grey.copy(), round(share * len(grey))
    grey[:k] = grey[-k:] = grey[:, :k] = grey[:, -k:] = value
    return grey


@pytest.fixture(scope="module")
def greys():
    "Overviews of healthy phantoms of all kinds; those with a dark edge of film drawn apart."
    pictures = [healthy(kind, 970 + seed, shape=(512, 416), pixel_spacing_mm=.44)
                for kind in HEALTHY if kind != "film_edge" for seed in range(2)]
    return [cv2.resize(p.pixels * 255, None, fx=.5, fy=.5, interpolation=cv2.INTER_AREA) for p in pictures]


def inverted(greys): return [bool(check_background(HEADER, np.float32(grey))) for grey in greys]


@pytest.mark.parametrize("share", [.1, .25, .4])
@pytest.mark.parametrize("value", [0, 255])
def test_padding(greys, value, share):
    assert not any(inverted(padded(grey, value, share) for grey in greys))
    assert np.mean(inverted(padded(255 - grey, value, share) for grey in greys)) > .9


@pytest.mark.parametrize("share", [.02, .05, .1])
def test_white_frames(greys, share):
    assert not any(inverted(framed(grey, 255, share) for grey in greys))
    assert np.mean(inverted(framed(255 - grey, 255, share) for grey in greys)) > .85
    assert np.mean(inverted(framed(255 - grey, 0, share) for grey in greys)) > .85


def test_a_breast_shown_white_is_no_air(greys):
    assert not any(inverted(np.minimum(2 * grey, 255) for grey in greys))


@pytest.mark.parametrize("change", [
    lambda grey: 38 + .85 * grey, lambda grey: 115 + .55 * grey, lambda grey: 60 + .3 * grey],
    ids=["15 %", "45 %", "flat"])
def test_grey_air_and_little_contrast(greys, change):
    assert not any(inverted(change(grey) for grey in greys))
    assert np.mean(inverted(255 - change(grey) for grey in greys)) > .9


@pytest.mark.parametrize("seed", range(4))
def test_noise_and_light_are_no_picture(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:256j, -1:1:208j]
    for sigma in (0, 1, 5, 20):
        light = 190 + 30 * seed / 3 * (x - y) + rng.normal(0, sigma, x.shape)
        assert inverted([light, 255 - light, np.clip(light, 0, 255)]) == [False] * 3
