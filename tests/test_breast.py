"The breast's mask, box and side: on phantoms whose truth is known, with what clinics add to them, and on real film."
import csv
from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mammo_kit.breast import Box, find_breast, orient
from mammo_kit.dicom import read
from mammo_kit.phantom import MACHINES, mammogram, write_dicom
from mammo_kit.windowing import display

MIAS = Path(__file__).parents[1] / '../shared/data/mias'
SHAPES = [((512, 416), .44), ((448, 352), .5), ((800, 640), .28)]
needs_mias = pytest.mark.skipif(not MIAS.exists(), reason='the real mammograms of ../shared/data/mias are not here')


@pytest.fixture(scope='module')
def phantoms():
    "Both sides and views, all densities, three sizes; seeds that the thresholds were not chosen on."
    kinds = [(side, view, density) for density in 'ABCD' for side in 'LR' for view in ('CC', 'MLO')]
    found = []
    for i, (side, view, density) in enumerate(kinds):
        shape, spacing = SHAPES[i % 3]
        found.append(mammogram(9000 + i, side, view, density, shape=shape, pixel_spacing_mm=spacing))
    return found


def grey(pixels, bits=8):
    return np.rint(np.clip(pixels, 0, 1) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def iou(breast, truth):
    found = breast.mask_at(truth.shape)
    return (found & truth).sum() / (found | truth).sum()


def kept(breast, truth):
    "The share of the true breast that lies in the box."
    return truth[breast.box.slices].sum() / truth.sum()


def excess(breast, truth):
    "Area of the box over that of the tightest box."
    height, width = (np.ptp(np.flatnonzero(truth.any(axis))) + 1 for axis in (1, 0))
    return breast.box.height * breast.box.width / (height * width)


def edge(image, side, width):
    "The slice of the `width` lines along one edge."
    return {'left': np.s_[:, :width], 'right': np.s_[:, image.shape[1] - width:],
            'top': np.s_[:width], 'bottom': np.s_[image.shape[0] - width:]}[side]


def as_it_is(pixels, truth, rng): return pixels, truth
def hard_window(pixels, truth, rng): return pixels**1.5, truth
def soft_window(pixels, truth, rng): return pixels**.5, truth
def high_background(pixels, truth, rng): return .3 + .7 * pixels, truth
def noisy_film(pixels, truth, rng): return .2 + .75 * pixels + rng.normal(0, .02, pixels.shape), truth
def few_grey_levels(pixels, truth, rng): return pixels * 16 / 255, truth


def uneven_film(pixels, truth, rng):
    rise = np.linspace(0, .08, pixels.shape[1]) + rng.normal(0, .015, pixels.shape)
    return .15 + .75 * pixels + rise, truth


def border(*sides, width=.03, value=1., noise=0.):
    def add(pixels, truth, rng):
        pixels, truth = pixels.copy(), truth.copy()
        for side in sides:
            where = edge(pixels, side, round(width * max(pixels.shape)))
            pixels[where], truth[where] = value + rng.normal(0, noise, pixels[where].shape), False
        return pixels, truth
    return add


def label(size, gap=None):
    "A white box with letters in the far upper corner; or at `gap` from the breast."
    def add(pixels, truth, rng):
        pixels, (h, w) = pixels.copy(), pixels.shape
        height, width = round(size * 1.3 * h), round(size * h)
        left_breast = truth[:, :w // 2].sum() > truth[:, w // 2:].sum()
        top, left = h // 50, w - width if left_breast else 0
        if gap is not None:
            columns = np.flatnonzero(truth[top:top + height].any(0))
            if len(columns):
                left = columns[-1] + round(gap * h) if left_breast else columns[0] - round(gap * h) - width
            left = int(np.clip(left, 0, w - width))
        box = np.full((height, width), 255, np.uint8)
        cv2.putText(box, 'R', (width // 4, height * 3 // 4), cv2.FONT_HERSHEY_SIMPLEX, width / 40, 0, 2)
        target = pixels[top:top + height, left:left + width]
        target[:] = np.where(truth[top:top + height, left:left + width], target, box / 255)
        return pixels, truth
    return add


def on_a_square(pixels, truth, rng):
    "A film with a grey base in the middle of a black square, as in MIAS."
    pixels, truth = noisy_film(pixels, truth, rng)
    h, w = pixels.shape
    pad = ((0, 0), ((h - w) // 2, h - w - (h - w) // 2))
    return np.pad(pixels, pad), np.pad(truth, pad)


def small_in_a_large_frame(pixels, truth, rng):
    "Twice the field: the breast is small, its chest wall still at the edge."
    h, w = pixels.shape
    left_breast = truth[:, :w // 2].sum() > truth[:, w // 2:].sum()
    pad = ((h // 2, h - h // 2), (0, w) if left_breast else (w, 0))
    return np.pad(pixels, pad), np.pad(truth, pad)


def filling_the_frame(pixels, truth, rng):
    "No air to spare on any side."
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    where = np.s_[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return pixels[where], truth[where]


CASES = {
    'as it is': as_it_is, 'hard window': hard_window, 'soft window': soft_window, 'few grey levels': few_grey_levels,
    'high background': high_background, 'noisy film': noisy_film, 'uneven film': uneven_film,
    'border left': border('left'), 'border right': border('right', value=.5), 'border top': border('top', width=.06),
    'border bottom': border('bottom', width=.01), 'frame': border('left', 'right', 'top', 'bottom', value=.8),
    'noisy frame': border('left', 'right', 'top', 'bottom', value=.8, noise=.02),
    'label': label(.08), 'large label': label(.14), 'label near the breast': label(.07, gap=.02),
    'on a square': on_a_square, 'small': small_in_a_large_frame, 'filling the frame': filling_the_frame,
}


@pytest.mark.parametrize('case', CASES)
def test_mask_box_and_side_on_phantoms(case, phantoms):
    ious = []
    for i, p in enumerate(phantoms):
        pixels, truth = CASES[case](p.pixels, p.breast_mask, np.random.default_rng(i))
        breast = find_breast(grey(pixels, 8 if i % 2 or case == 'few grey levels' else 16))
        assert breast.chest_wall == {'L': 'left', 'R': 'right'}[p.laterality], i
        assert kept(breast, truth) > .98, i
        assert excess(breast, truth) < 1.35, i
        assert breast.flags == ()
        ious.append(iou(breast, truth))
    assert np.mean(ious) > .95
    assert min(ious) > .85


def test_through_files_of_every_machine(tmp_path):
    "Every VOI transform and bit depth shows a breast that is found, at 8 and at 16 bits."
    for i, machine in enumerate(MACHINES.values()):
        p = mammogram(9100 + i, 'LR'[i % 2], ('CC', 'MLO')[i // 2 % 2], 'ABCD'[i % 4], shape=(410, 330),
                      pixel_spacing_mm=.55)
        write_dicom(tmp_path / 'image.dcm', p, machine, 1, 1)
        image = read(tmp_path / 'image.dcm')
        for bits in (8, 16):
            breast = find_breast(display(image, bits))
            assert iou(breast, p.breast_mask) > .95, (machine.machine_id, bits)
            assert kept(breast, p.breast_mask) > .99


def test_box_holds_at_other_sizes_and_mirrored(phantoms):
    image = grey(phantoms[3].pixels)
    breast = find_breast(image)
    h, w = image.shape
    for size in ((2 * h, 2 * w), (h // 2, w // 2)):
        box = find_breast(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)).box.scaled(size, (h, w))
        assert np.abs(np.subtract(astuple(box), astuple(breast.box))).max() < .02 * h
    mirrored = find_breast(image[:, ::-1])  # a view with a negative stride
    assert {breast.chest_wall, mirrored.chest_wall} == {'left', 'right'}
    assert np.mean(mirrored.mask[:, ::-1] != breast.mask) < .01


def test_orient_mirrors_right_breasts_only(phantoms):
    for p in phantoms[:8]:
        image = grey(p.pixels)
        breast = find_breast(image)
        turned = orient(image, breast)
        assert (turned is image) == (p.laterality == 'L')
        assert find_breast(turned).chest_wall == 'left'
        assert np.array_equal(turned if p.laterality == 'L' else turned[:, ::-1], image)


def test_box_scales_outwards():
    assert Box(1, 1, 9, 9).scaled((10, 10), (5, 5)) == Box(0, 0, 5, 5)
    assert Box(2, 4, 8, 10).scaled((10, 10), (5, 20)) == Box(1, 8, 4, 20)


@given(arrays.arrays(st.sampled_from([np.uint8, np.uint16]), st.tuples(st.integers(1, 60), st.integers(1, 60))))
@settings(max_examples=150, deadline=None)
def test_any_image_has_a_box_in_it(image):
    breast = find_breast(image)
    box, (h, w) = breast.box, image.shape
    assert 0 <= box.top < box.bottom <= h and 0 <= box.left < box.right <= w
    assert all(type(v) is int for v in (box.top, box.left, box.bottom, box.right))
    assert breast.mask.dtype == bool and breast.mask.any() and breast.mask_at((7, 9)).shape == (7, 9)


@pytest.mark.parametrize('value', [0, 128, 255])
def test_no_breast_is_a_flag_and_the_whole_image(value):
    for shape in ((400, 300), (2, 3), (1, 1000)):
        breast = find_breast(np.full(shape, value, np.uint8), laterality='R')
        assert (breast.box, breast.chest_wall, breast.flags) == (Box(0, 0, *shape), 'right', ('no_breast_found',))


def test_a_label_alone_is_no_breast():
    image = np.zeros((500, 400), np.uint8)
    image[10:40, 350:380] = 255
    assert find_breast(image).flags == ('no_breast_found',)


@pytest.fixture(scope='module')
def mias():
    "(row of train.csv, image, breast) of every image."
    rows = list(csv.DictReader((MIAS / 'train.csv').open()))
    images = [display(read(MIAS / f"train_images/{r['patient_id']}/{r['image_id']}.dcm")) for r in rows]
    return [(row, image, find_breast(image)) for row, image in zip(rows, images, strict=True)]


@needs_mias
def test_real_film_chest_wall_agrees_with_laterality(mias):
    sides = [(row['laterality'], breast.chest_wall) for row, _, breast in mias]
    agreement = np.mean([pair in (('L', 'left'), ('R', 'right')) for pair in sides])
    assert agreement > .99


@needs_mias
def test_real_film_findings_are_in_the_mask(mias):
    breasts = {row['image_id']: breast for row, _, breast in mias}
    with (MIAS / 'findings.csv').open() as file:
        findings = [(breasts[r['image_id']], float(r['x']), float(r['y']), float(r['radius'] or 0))
                    for r in csv.DictReader(file) if r['x'] and r['y']]
    assert len(findings) > 80
    inside = [b.mask_at((1024, 1024))[int(y), int(x)] for b, x, y, _ in findings]
    assert sum(inside) >= len(inside) - 2  # two small ones (radius 3 and 11 pixels) lie on or beyond the skin line
    whole = [b.box.top <= y - r and y + r <= b.box.bottom and b.box.left <= x - r and x + r <= b.box.right
             for b, x, y, r in findings]
    assert np.mean(whole) > .93  # the circles of some findings reach beyond the skin or the edge of the film


@needs_mias
def test_real_film_boxes_cut_air_and_repeat(mias):
    assert not [row['image_id'] for row, _, breast in mias if breast.flags]
    area = np.array([b.box.height * b.box.width / image.size for _, image, b in mias])
    # A film of 1600 or 2600 of its 4320 scan lines fills a third to two thirds of the padded square.
    assert area.max() < .95 and np.median(area) < .55
    for _, image, breast in mias[::40]:
        again = find_breast(image)
        assert again.box == breast.box and np.array_equal(again.mask, breast.mask)
