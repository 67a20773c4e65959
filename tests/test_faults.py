"What is wrong with a picture or a header is what its name says, as strong as asked, and nothing else is touched."
import copy
import io

import numpy as np
import pandas as pd
import pydicom
import pytest

from mammo_kit import phantom
from mammo_kit.faults import ARTIFACTS, HEADER_FAULTS, HEALTHY, draw_artifact, healthy
from mammo_kit.phantom import MACHINES, Phantom, dicom_dataset, draw_lesions, mammogram, stored_values

SHAPE, MM = (512, 416), .44
STRENGTHS = (0, .5, 1)
# As the design names the rules.
PICTURE = ('blank low_contrast implant pacemaker nipple_marker circle overcropped artificial_border high_background '
           'stripes burned_in_label').split()
HEADER = ('eight_bit_pixels exceeds_bits_stored empty_range bits_disagree window_outside_range window_missing '
          'window_duplicate window_width_not_positive window_not_a_number photometric_disagrees laterality_disagrees '
          'view_disagrees padding_missing for_processing multi_frame colour not_a_mammogram').split()


@pytest.fixture(scope='module')
def breasts():
    lesions = draw_lesions(np.random.default_rng(6), cancer=True, benign=True)
    return [mammogram(i, lr, view, 'ABCD'[i], lesions, SHAPE, MM)
            for i, (lr, view) in enumerate((('L', 'CC'), ('R', 'MLO'), ('R', 'CC'), ('L', 'MLO')))]


@pytest.fixture(scope='module')
def real(data):
    "Three real mammograms as phantoms: film in MLO, digital in CC, both sides."
    import cv2

    from mammo_kit.breast import find_breast
    from mammo_kit.dicom import read
    from mammo_kit.windowing import display
    films = pd.read_csv(data / 'mias' / 'train.csv').iloc[:1]
    files = [(data / f'mias/train_images/{r.patient_id}/{r.image_id}.dcm', 'MLO') for r in films.itertuples()]
    images = []
    for path, view in [*files, *((data / 'mg' / f'1_{lr}_CC_j2k.dcm', 'CC') for lr in 'LR')]:
        grey = display(read(path))
        grey = cv2.resize(grey, (round(grey.shape[1] * 768 / grey.shape[0]), 768), interpolation=cv2.INTER_AREA)
        found = find_breast(grey)
        images.append(Phantom((grey / 255).astype(np.float32), found.mask_at(grey.shape), (),
                              {'left': 'L', 'right': 'R'}[found.chest_wall], view, 'B', .3))
    return images


def bright_pixels(p, level=.95):
    return int((p.pixels > level).sum())


def test_every_rule_of_the_design_can_be_drawn():
    assert list(ARTIFACTS) == PICTURE and list(HEADER_FAULTS) == HEADER


@pytest.mark.parametrize('rule', ARTIFACTS)
def test_same_seed_same_picture_and_the_input_is_not_changed(rule, breasts):
    for seed, image in enumerate(breasts):
        before = copy.deepcopy(image)
        one, two, other = (draw_artifact(image, rule, .5, s) for s in (seed, seed, seed + 100))
        assert one[1] == two[1] and one[0].findings == two[0].findings
        np.testing.assert_array_equal(one[0].pixels, two[0].pixels)
        if rule != 'blank':  # zeros are zeros
            assert one[0].pixels.shape != other[0].pixels.shape or (one[0].pixels != other[0].pixels).any()
        np.testing.assert_array_equal(image.pixels, before.pixels)
        np.testing.assert_array_equal(image.breast_mask, before.breast_mask)
        assert image.findings == before.findings
        assert (one[0].laterality, one[0].view, one[0].pixel_spacing_mm) == (image.laterality, image.view, MM)


def check_what_was_drawn(image, rule, seed, strength):
    "The picture is sound, and changed where the box says and not elsewhere."
    p, box = draw_artifact(image, rule, strength, seed)
    assert p.pixels.dtype == np.float32 and p.pixels.flags.c_contiguous and p.breast_mask.dtype == bool
    assert 0 <= p.pixels.min() and p.pixels.max() <= 1 and p.breast_mask.shape == p.pixels.shape
    top, left, bottom, right = box
    assert 0 <= top < bottom <= p.pixels.shape[0] and 0 <= left < right <= p.pixels.shape[1]
    if rule == 'overcropped':
        assert p.pixels.size < image.pixels.size
        return
    changed = abs(p.pixels - image.pixels) > .05
    assert changed[top:bottom, left:right].any()
    if rule in ('nipple_marker', 'circle', 'artificial_border', 'burned_in_label'):
        outside = changed.copy()
        outside[max(0, top - 3):bottom + 3, max(0, left - 3):right + 3] = False
        assert not outside.any()


@pytest.mark.parametrize('strength', STRENGTHS)
@pytest.mark.parametrize('rule', ARTIFACTS)
def test_on_phantoms(rule, strength, breasts):
    for seed in range(12): check_what_was_drawn(breasts[seed % 4], rule, seed, strength)


@pytest.mark.parametrize('rule', ARTIFACTS)
def test_on_real_mammograms(rule, real):
    for seed in range(6): check_what_was_drawn(real[seed % 3], rule, seed, STRENGTHS[seed // 2])


@pytest.mark.parametrize('rule', ARTIFACTS)
def test_on_the_smallest_and_the_largest_breasts(rule):
    for kind in ('small_breast', 'large_breast'):
        for view in ('CC', 'MLO'):
            image = healthy(kind, 1, view, SHAPE, MM)
            for seed in range(3): check_what_was_drawn(image, rule, seed, seed / 2)


def amount(image, rule, strength, seed):
    "How much of it is seen, in a measure of the rule's own."
    p, box = draw_artifact(image, rule, strength, seed)
    if rule == 'overcropped': return 1 - p.breast_mask.sum() / image.breast_mask.sum()
    if rule == 'blank': return -p.pixels.std()
    if rule == 'low_contrast': return -np.ptp(np.percentile(p.pixels[image.breast_mask], [5, 95]))
    if rule == 'high_background': return np.median(p.pixels[~image.breast_mask])
    if rule in ('pacemaker', 'nipple_marker'): return bright_pixels(p) + p.pixels.max()
    if rule == 'burned_in_label': return (box[2] - box[0]) * (box[3] - box[1])
    return abs(p.pixels - image.pixels).sum()


@pytest.mark.parametrize('rule', ARTIFACTS)
def test_stronger_means_more(rule, breasts):
    for seed in range(16):
        faint, middle, strong = (amount(breasts[seed % 4], rule, s, seed) for s in STRENGTHS)
        assert faint <= middle <= strong, seed
        assert faint < strong or rule == 'blank'  # all zeros are all zeros


def test_blank_shows_nothing_of_the_breast(breasts):
    kinds = set()
    for seed in range(20):
        p, _ = draw_artifact(breasts[0], 'blank', 0, seed)
        assert not p.breast_mask.any() and not p.findings
        darker, brighter = (p.pixels[breasts[0].breast_mask == inside] for inside in (False, True))
        assert abs(darker.mean() - brighter.mean()) < .1
        kinds.add('zeros' if not p.pixels.any() else 'constant' if not np.ptp(p.pixels) else 'noise')
    assert kinds == {'zeros', 'constant', 'noise'}


def test_low_contrast_keeps_less_than_a_third(breasts):
    veils = 0
    for seed in range(20):
        image = breasts[seed % 4]
        p, _ = draw_artifact(image, 'low_contrast', 0, seed)
        import cv2
        core = cv2.erode(image.breast_mask.astype(np.uint8), np.ones((31, 31))).astype(bool)
        before, after = (np.subtract(*np.percentile(cv2.blur(x.pixels, (5, 5))[core], [90, 10])) for x in (image, p))
        assert after < .4 * before
        air = p.pixels[~image.breast_mask]
        if air.max() == 0: veils += 1
        else: assert abs(air.mean() - p.pixels[core].mean()) < .3
    assert 4 < veils < 16


def test_an_implant_is_bright_smooth_and_at_the_chest_wall(breasts):
    for seed in range(12):
        image = breasts[seed % 4]
        p, (top, left, bottom, right) = draw_artifact(image, 'implant', seed % 3 / 2, seed)
        columns = np.flatnonzero(image.breast_mask.any(0))
        depth = right if image.laterality == 'L' else SHAPE[1] - left
        assert .2 < depth / len(columns) < .66
        assert (left == 0) if image.laterality == 'L' else (right == SHAPE[1])
        middle, half = (top + bottom) // 2, max(2, (bottom - top) // 8)
        near = np.s_[:, depth // 3:depth // 2] if image.laterality == 'L' else np.s_[:, -depth // 2:-depth // 3]
        filling = p.pixels[middle - half:middle + half][near]
        assert filling.mean() > .6 and filling.mean() > image.pixels[middle - half:middle + half][near].mean()


def test_a_pacemaker_is_metal_of_the_right_size_in_the_patient(breasts):
    for seed in range(24):
        image = breasts[seed % 4]
        p, (top, left, bottom, right) = draw_artifact(image, 'pacemaker', (0, .3, 1)[seed % 3], seed)
        size = np.array([bottom - top, right - left]) * MM
        metal = (p.pixels > .98) & (image.pixels < .9)
        assert 7 < size.max() < (52 if seed % 3 == 0 else 80)
        assert 40 < metal.sum() * MM**2 < 55 * 55 * 1.15 and (metal & image.breast_mask).sum() > .8 * metal.sum()
        if image.view == 'MLO': assert top < SHAPE[0] / 2


def test_a_nipple_marker_is_a_small_ball_at_the_nipple(breasts):
    for seed in range(16):
        image = breasts[seed % 4]
        p, (top, left, bottom, right) = draw_artifact(image, 'nipple_marker', seed % 2, seed)
        columns = np.flatnonzero(image.breast_mask.any(0))
        tip = columns[-1] if image.laterality == 'L' else columns[0]
        assert abs((left + right) / 2 - tip) * MM < 25 and (bottom - top) * MM < 17
        ball = (p.pixels > .8) & (p.pixels > image.pixels + .1)
        assert 1 <= np.sqrt(ball.sum() * MM**2 * 4 / np.pi) < 8


def test_circles_are_round_and_of_two_kinds(breasts):
    sizes = []
    for seed in range(30):
        _, (top, left, bottom, right) = draw_artifact(breasts[seed % 4], 'circle', .5, seed)
        sizes.append(max(bottom - top, right - left) * MM)
    sizes = np.array(sizes)
    assert ((sizes > 8) & (sizes < 29)).sum() > 4 and ((sizes > 30) & (sizes < 108)).sum() > 12
    assert not (sizes > 108).any()


def test_overcropped_cuts_the_nipple_or_the_whole_side(breasts):
    sides = set()
    for seed in range(24):
        image = breasts[seed % 4]
        p, (top, left, bottom, right) = draw_artifact(image, 'overcropped', 0, seed)
        h, w = p.pixels.shape
        front = np.s_[:, -1] if image.laterality == 'L' else np.s_[:, 0]
        depth = image.breast_mask.any(0).sum()
        touching = {'front': p.breast_mask[front].mean(), 'above': p.breast_mask[0].sum() / depth,
                    'below': p.breast_mask[-1].sum() / depth}
        side = 'front' if w < SHAPE[1] else 'below' if bottom == h and top > 0 else 'above'
        assert touching[side] > .2
        sides.add(side)
        for f in p.findings: assert 0 <= f.x < w and 0 <= f.y < h
    assert sides == {'front', 'above', 'below'}


def test_findings_stay_on_their_lesion_when_the_frame_is_cut():
    lesions = draw_lesions(np.random.default_rng(0), cancer=True, benign=False)
    for laterality in 'LR':
        image = mammogram(1, laterality, 'CC', 'B', lesions, SHAPE, MM)
        for seed in range(12):
            p, _ = draw_artifact(image, 'overcropped', 0, seed)
            for f in p.findings:
                whole = next(g for g in image.findings if g.kind == f.kind)
                assert p.pixels[int(f.y), int(f.x)] == image.pixels[int(whole.y), int(whole.x)]


def test_a_border_is_uniform_along_an_edge(breasts):
    for seed in range(12):
        p, _ = draw_artifact(breasts[seed % 4], 'artificial_border', .5, seed)
        edges = [p.pixels[0], p.pixels[-1], p.pixels[:, 0], p.pixels[:, -1]]
        uniform = [edge for edge in edges if np.median(edge) > .3 and edge[20:-20].std() < .06]
        assert 1 <= len(uniform) <= 4
        assert not p.breast_mask[p.pixels != breasts[seed % 4].pixels].any()


def test_the_air_of_a_high_background_is_as_grey_as_asked(breasts):
    for seed in range(12):
        image = breasts[seed % 4]
        faint, strong = (draw_artifact(image, 'high_background', s, seed)[0].pixels for s in (0, 1))
        assert .14 < np.median(faint[~image.breast_mask]) < .2 and .36 < np.median(strong[~image.breast_mask]) < .47
        assert faint[image.breast_mask].mean() > faint[~image.breast_mask].mean()


def test_stripes_are_lines_across_the_whole_picture(breasts):
    directions = set()
    for seed in range(16):
        image = breasts[seed % 4]
        p, (top, left, bottom, right) = draw_artifact(image, 'stripes', 1, seed)
        added = p.pixels - image.pixels
        vertical = top == 0 and bottom == SHAPE[0]
        if vertical: added = added.T
        assert (added >= 0).all()
        line = int(np.argmax(added.sum(1)))
        assert (added[line] > .05).mean() > .9 or image.pixels[line].max() > .9
        assert 1 <= (added.max(1) > .02).sum() <= 5 * (12 * max(SHAPE) / 2000 + 3)
        directions.add(vertical)
    assert directions == {True, False}


def test_a_stripe_of_one_picture_is_that_of_its_small_copy():
    import cv2
    large, small = (Phantom(np.zeros((n, n), np.float32), np.ones((n, n), bool), (), 'L', 'CC', 'B', .1)
                    for n in (2000, 500))
    for seed in range(5):
        a, b = (draw_artifact(p, 'stripes', .5, seed)[0].pixels for p in (large, small))
        reduced = cv2.resize(a, (500, 500), interpolation=cv2.INTER_AREA)
        assert abs(reduced.sum() - b.sum()) < .25 * b.sum()


def test_labels_are_not_mirrored_and_mostly_in_the_air(breasts):
    share = []
    for seed in range(20):
        image = breasts[seed % 4]
        p, (top, left, bottom, right) = draw_artifact(image, 'burned_in_label', .5, seed)
        share.append(image.breast_mask[top:bottom, left:right].mean())
        assert (bottom - top) * MM > 3
    assert np.median(share) == 0 and max(share) > 0
    left, right = (replace_side(breasts[0], lr) for lr in 'LR')
    alike = 0
    for seed in range(30):  # a text that does not tell the side is the same on both
        texts = [p.pixels[box[0]:box[2], box[1]:box[3]] for p, box in
                 (draw_artifact(p, 'burned_in_label', 1, seed) for p in (left, right))]
        alike += np.array_equal(*texts) and not np.array_equal(texts[0], texts[1][:, ::-1])
    assert alike > 3


def replace_side(p, laterality):
    mirror = np.s_[:, ::-1 if p.laterality != laterality else 1]
    return Phantom(p.pixels[mirror], p.breast_mask[mirror], (), laterality, p.view, p.density, p.pixel_spacing_mm)


@pytest.mark.parametrize('rule', [r for r in ARTIFACTS if r != 'burned_in_label'])
def test_a_right_breast_gets_the_mirror_image(rule, breasts):
    left, right = (replace_side(breasts[0], lr) for lr in 'LR')
    (a, box), (b, other) = (draw_artifact(p, rule, .5, 3) for p in (left, right))
    np.testing.assert_array_equal(a.pixels, b.pixels[:, ::-1])
    width = a.pixels.shape[1]
    assert other == (box[0], width - box[3], box[2], width - box[1])


@pytest.mark.parametrize(('wrong', 'message'), [
    ({'rule': 'shadow'}, 'expected one of blank'), ({'rule': 'blank', 'strength': 1.5}, 'faint')])
def test_impossible_artifacts_are_refused(wrong, message, breasts):
    with pytest.raises(ValueError, match=message): draw_artifact(breasts[0], **wrong)


def test_nothing_can_be_drawn_on_a_picture_without_a_breast(breasts):
    blank, _ = draw_artifact(breasts[0], 'blank', 1, 0)
    with pytest.raises(ValueError, match='no breast'): draw_artifact(blank, 'implant')


@pytest.mark.parametrize('kind', HEALTHY)
def test_neighbours_are_sound_and_vary_by_seed(kind):
    some = [healthy(kind, seed, shape=SHAPE, pixel_spacing_mm=MM) for seed in range(6)]
    again = healthy(kind, 0, shape=SHAPE, pixel_spacing_mm=MM)
    np.testing.assert_array_equal(some[0].pixels, again.pixels)
    assert len({p.pixels.sum() for p in some}) == 6 and {p.laterality for p in some} == {'L', 'R'}
    for p in some:
        assert p.pixels.shape == SHAPE and p.pixels.dtype == np.float32 and 0 <= p.pixels.min() <= p.pixels.max() <= 1
        wall = np.s_[:, 0] if p.laterality == 'L' else np.s_[:, -1]
        assert p.breast_mask[wall].mean() > .1
        if kind != 'film_edge': assert not p.pixels[~p.breast_mask].any()
    for view in ('CC', 'MLO'): assert healthy(kind, 1, view, SHAPE, MM).view == view


def test_neighbours_are_what_their_names_say():
    made = {kind: [healthy(kind, seed, 'MLO' if kind == 'big_pectoral' else 'CC', SHAPE, MM) for seed in range(5)]
            for kind in HEALTHY}
    brightness = {kind: np.mean([p.pixels[p.breast_mask].mean() for p in some]) for kind, some in made.items()}
    area = {kind: np.mean([p.breast_mask.mean() for p in some]) for kind, some in made.items()}
    depth = {kind: [p.breast_mask.any(0).mean() for p in some] for kind, some in made.items()}
    assert brightness['fatty_breast'] < .7 * brightness['plain'] < brightness['dense_breast']
    assert area['small_breast'] < .12 and area['large_breast'] > .45
    assert min(depth['large_breast']) > .8 and max(depth['large_breast']) < 1  # its front is not cut
    for p in made['large_breast']: assert not p.breast_mask[[0, -1]].any()
    calcium = {kind: max(bright_pixels(p, .8) for p in some) for kind, some in made.items()}
    assert min(calcium['coarse_calcification'], calcium['calcified_vessel']) > 10 > calcium['plain']
    for p in made['film_edge']:
        air = p.pixels[~p.breast_mask]
        assert .02 < np.median(air) < .14 and air.std() > .005
    mlo = [healthy('plain', seed, 'MLO', SHAPE, MM) for seed in range(5)]

    def upper_corner(p): return p.pixels[:60, :60].mean() if p.laterality == 'L' else p.pixels[:60, -60:].mean()
    assert np.mean([*map(upper_corner, made['big_pectoral'])]) > np.mean([*map(upper_corner, mlo)]) + .05
    with pytest.raises(ValueError, match='expected one of plain'): healthy('implant', 0)


def dataset(machine, image):
    ds = dicom_dataset(stored_values(image.pixels, machine), machine, patient_id=1, image_id=7, pixel_spacing_mm=MM,
                       laterality=image.laterality, view=image.view)
    return ds


def written(ds):
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize('machine', MACHINES.values(), ids=lambda m: str(m.machine_id))
@pytest.mark.parametrize('rule', HEADER_FAULTS)
def test_header_faults_make_their_rule_true(rule, machine, breasts):
    image = breasts[0]
    before, ds = dataset(machine, image), dataset(machine, image)
    HEADER_FAULTS[rule](ds)
    ds = written(ds)
    if rule == 'exceeds_bits_stored':  # pydicom cuts off what is beyond Bits Stored
        assert np.frombuffer(ds.PixelData, '<u2').max() >= 2**ds.BitsStored
        if machine.bits_stored == 16: ds.BitsStored = 16
    pixels = ds.pixel_array
    if rule not in ('eight_bit_pixels', 'empty_range', 'multi_frame', 'colour'):
        np.testing.assert_array_equal(pixels, before.pixel_array)
    if 'window' in rule and rule not in ('window_missing', 'window_not_a_number'):
        center, width = (np.atleast_1d(np.asarray(ds[k].value, float)) for k in ('WindowCenter', 'WindowWidth'))
    inverted = machine.photometric_interpretation == 'MONOCHROME1'
    if rule == 'eight_bit_pixels':
        assert pixels.max() <= 255 and ds.BitsStored == machine.bits_stored and float(np.max(ds.WindowWidth)) > 256
        shown = (255 - pixels if inverted else pixels) / 255
        assert abs(shown - image.pixels).max() < .008
        assert ds.get('VOILUTFunction', 'LINEAR') == 'LINEAR' and 'VOILUTSequence' not in ds
    elif rule == 'empty_range': assert 0 < np.ptp(pixels) <= 3
    elif rule == 'bits_disagree': assert ds.HighBit != ds.BitsStored - 1 and ds.HighBit < ds.BitsAllocated
    elif rule == 'window_outside_range':
        assert center[0] - width[0] / 2 > pixels.max() or center[0] + width[0] / 2 < pixels.min()
    elif rule == 'window_missing': assert not {'WindowCenter', 'WindowWidth', 'VOILUTSequence'} & set(ds.dir())
    elif rule == 'window_duplicate': assert len(center) == len(width) == 2 and not np.ptp(center) and not np.ptp(width)
    elif rule == 'window_width_not_positive': assert width[0] <= 0
    elif rule == 'window_not_a_number': assert ds.get_item('WindowCenter').value.strip() == b'NaN'
    elif rule == 'photometric_disagrees':
        assert {ds.PhotometricInterpretation, before.PhotometricInterpretation} == {'MONOCHROME1', 'MONOCHROME2'}
    elif rule == 'laterality_disagrees': assert (before.ImageLaterality, ds.ImageLaterality) == ('L', 'R')
    elif rule == 'view_disagrees': assert (before.ViewPosition, ds.ViewPosition) == ('CC', 'MLO')
    elif rule == 'padding_missing': assert 'PixelPaddingValue' not in ds
    elif rule == 'for_processing': assert ds.PresentationIntentType == 'FOR PROCESSING'
    elif rule == 'multi_frame': assert pixels.shape == (3, *SHAPE) and (pixels == before.pixel_array).all()
    elif rule == 'colour':
        assert pixels.shape == (*SHAPE, 3) and abs(pixels[..., 0] / 255 - image.pixels).max() < .008
    elif rule == 'not_a_mammogram': assert ds.Modality == 'DX' and ds.SOPClassUID.name.startswith('Digital X-Ray')
    assert ds.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID


@pytest.mark.parametrize('machine', MACHINES.values(), ids=lambda m: str(m.machine_id))
def test_the_reader_sees_the_excess_of_bits(machine, breasts, tmp_path):
    from mammo_kit.dicom import read
    ds = dataset(machine, breasts[0])
    HEADER_FAULTS['exceeds_bits_stored'](ds)
    ds.save_as(tmp_path / 'a.dcm', enforce_file_format=True)
    assert read(tmp_path / 'a.dcm').flags == ('exceeds_bits_stored',)


def competition(folder, **kwargs):
    return phantom.make_competition(folder, patients=6, test_patients=2, scale=.15, progress=False, **kwargs)


@pytest.mark.parametrize('rule', HEADER)
def test_no_plug_in_of_pydicom_is_needed(rule, breasts, monkeypatch):
    "As on Kaggle: pydicom cannot decode JPEG lossless, and the file is the same."
    files = []
    for plug_ins in (True, False):
        if not plug_ins: monkeypatch.setattr(pydicom.pixels.get_decoder(phantom.JPEG_LOSSLESS), '_available', {})
        m, file = MACHINES[48], io.BytesIO()
        ds = dicom_dataset(stored_values(breasts[1].pixels, m), m, patient_id=1, image_id=2, laterality='R', view='MLO',
                           pixel_spacing_mm=MM)
        HEADER_FAULTS[rule](ds)
        ds.save_as(file, enforce_file_format=True)
        files.append(file.getvalue())
    assert files[0] == files[1]


def test_a_share_of_a_competition_is_faulty_and_told_so(tmp_path):
    whole, faulty, again = (competition(tmp_path / name, workers=workers, faults=share) for name, workers, share in
                            (('whole', 1, 0), ('faulty', 1, .8), ('again', 2, .8)))
    images = sorted(str(p.relative_to(whole)) for p in whole.rglob('*.dcm'))
    assert not (whole / 'faults.csv').exists()
    assert images == sorted(str(p.relative_to(faulty)) for p in faulty.rglob('*.dcm'))
    told = pd.read_csv(faulty / 'faults.csv')
    assert list(told.columns) == ['path', 'kind', 'rule', 'strength', 'top', 'left', 'bottom', 'right']
    assert len(told) == told.path.nunique() == round(.8 * len(images)) and set(told.path) < set(images)
    assert set(told[told.kind == 'artifact'].rule) <= set(ARTIFACTS) and told.rule.value_counts().max() <= 2
    assert told[told.kind == 'header'][['strength', 'top']].isna().all(axis=None)
    assert told[told.kind == 'artifact'][['strength', 'top']].notna().all(axis=None)
    for image in images:
        same = (whole / image).read_bytes() == (faulty / image).read_bytes()
        row = told[told.path == image]
        assert same == row.empty or row.rule.item() in ('padding_missing', 'window_missing')  # some never had it
        assert (faulty / image).read_bytes() == (again / image).read_bytes()
    assert (faulty / 'faults.csv').read_bytes() == (again / 'faults.csv').read_bytes()
    assert (faulty / 'train.csv').read_bytes() == (whole / 'train.csv').read_bytes()


def test_a_share_beyond_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match='share of the images'): competition(tmp_path / 'out', faults=30)


def test_on_the_command_line(tmp_path, capsys):
    from mammo_kit.cli import main
    options = '--patients 2 --test-patients 1 --scale .15 --workers 1 --faults .3'
    assert main(['phantom', str(tmp_path / 'out'), *options.split()]) == 0
    assert 'faults.csv' in capsys.readouterr().out and (tmp_path / 'out' / 'faults.csv').is_file()
