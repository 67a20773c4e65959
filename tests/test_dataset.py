"What a notebook kernel cannot show well: workers of both start methods, folds of any table, and damaged folders."
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mammo_kit.dataset import (
    BreastImages,
    ShardImages,
    _with_body,
    augment,
    augment_strongly,
    batches,
    folds,
    images,
    read_image,
)

HEIGHT, WIDTH = 64, 32


def picture(seed, dtype=np.uint8):
    "A half ellipse on black with the chest wall on the left; noise makes every picture another."
    shape = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(shape, (0, HEIGHT // 2), (24, 26), 0, -90, 90, 1, -1)
    noise = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape.shape, dtype=dtype, endpoint=True)
    return noise * shape.astype(dtype)


def preprocessed(out: Path, dtype=np.uint8, n=16, per_shard=6, suffix='.png'):
    "A folder as preprocessing leaves it: `n` images of `n // 2` patients, three shards."
    (out / 'shards').mkdir(parents=True)
    rows = []
    for start in range(0, n, per_shard):
        with tarfile.open(out / 'shards' / f'{start // per_shard:05}.tar', 'w') as tar:
            for i in range(start, min(start + per_shard, n)):
                data = cv2.imencode(suffix, picture(i, dtype))[1].tobytes()
                info = tarfile.TarInfo(f'{100 + i // 2}/{9000 + i}{suffix}')
                info.size = len(data)
                rows.append({'path': f'train_images/{100 + i // 2}/{9000 + i}.dcm', 'patient_id': 100 + i // 2,
                             'image_id': 9000 + i, 'laterality': 'LR'[i % 2], 'view': 'MLO', 'status': 'ok',
                             'reason': '', 'flags': '', 'source_height': 4096, 'source_width': 3328, 'level': 0,
                             'shard': start // per_shard, 'member': info.name,
                             'offset': tar.offset + 512, 'length': len(data)})
                tar.addfile(info, io.BytesIO(data))
    manifest = pd.DataFrame(rows)
    manifest.to_csv(out / 'manifest.csv', index=False)
    table = manifest[['patient_id', 'image_id', 'laterality', 'view']]
    table = table.assign(cancer=[int(i % 4 == 0) for i in range(n)])
    table.to_csv(out / 'train.csv', index=False)
    return manifest, table


@pytest.fixture
def out(tmp_path):
    preprocessed(tmp_path / 'out')
    return tmp_path / 'out'


def test_importing_needs_no_torch():
    code = ('import sys, mammo_kit.dataset, mammo_kit.metrics\n'
            "print({'torch', 'sklearn', 'matplotlib'}.intersection(sys.modules))")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'set()'


# The table

def test_every_image_is_read_as_it_was_stored(out):
    frame = images(out)
    assert frame['image_id'].tolist() == [str(9000 + i) for i in range(16)]
    assert frame['breast_id'][3] == '101_R' and frame['cancer'].tolist() == [1, 0, 0, 0] * 4
    for i, row in frame.iterrows():
        np.testing.assert_array_equal(read_image(out, row), picture(i))


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    preprocessed(tmp_path / 'out', np.uint16)
    frame = images(tmp_path / 'out')
    assert read_image(tmp_path / 'out', frame.iloc[9]).dtype == np.uint16
    x, _ = ShardImages(tmp_path / 'out', frame)[9]
    assert str(x.dtype) == 'torch.uint16'
    np.testing.assert_array_equal(x[0].numpy(), picture(9, np.uint16))
    assert augment(picture(9, np.uint16), np.random.default_rng(0)).dtype == np.uint16


def test_identifiers_are_compared_as_text(tmp_path):
    manifest, table = preprocessed(tmp_path / 'out')
    names = {100: 'NA', 101: '007', 102: '1.2.840.0', 103: 'null'}
    manifest['patient_id'] = manifest['patient_id'].replace(names)
    manifest.to_csv(tmp_path / 'out' / 'manifest.csv', index=False)
    table['patient_id'] = table['patient_id'].replace(names)
    table['image_id'] = table['image_id'].astype(float)  # what pandas makes of integers beside a missing one
    table.to_csv(tmp_path / 'out' / 'train.csv', index=False)
    assert '9000.0' in (tmp_path / 'out' / 'train.csv').read_text()
    frame = images(tmp_path / 'out')
    assert frame['patient_id'].tolist()[:9:2] == ['NA', '007', '1.2.840.0', 'null', '104']
    assert frame['image_id'][0] == '9000' and frame['cancer'].notna().all()


def test_train_csv_knows_laterality_and_view(tmp_path):
    manifest, table = preprocessed(tmp_path / 'out')
    manifest.assign(laterality='', view='').to_csv(tmp_path / 'out' / 'manifest.csv', index=False)
    frame = images(tmp_path / 'out')
    assert frame['laterality'].tolist() == ['L', 'R'] * 8 and set(frame['view']) == {'MLO'}
    bare = images(tmp_path / 'out', labels=False)
    assert 'cancer' not in bare and bare['breast_id'][0] == '100_'


@pytest.mark.parametrize('spoil, said', [
    (lambda m, t: (None, t), 'run `mammo-kit preprocess'),
    (lambda m, t: (m.drop(columns=['shard', 'flags']), t), 'no column flags, shard'),
    (lambda m, t: (m.assign(status='excluded'), t), r"no image is ok \({'excluded': 16}\)"),
    (lambda m, t: (m.iloc[:0], t), 'no image is ok .no rows'),
    (lambda m, t: (m.assign(offset=m['offset'].where(m.index > 0)), t), '1 ok images without shard, .*: 9000'),
    (lambda m, t: (pd.concat([m, m.iloc[[2]]]), t), '1 image_id in more than one row: 9002'),
    (lambda m, t: (m, pd.concat([t, t.iloc[[2]]])), '1 image_id in more than one row: 9002'),
    (lambda m, t: (m, t.iloc[7:]), '7 of 16 ok images: 9000, 9001, 9002, 9003, 9004 and 2 more'),
    (lambda m, t: (m, t.assign(patient_id=100)), 'image 9002 to 100 instead of 101'),
    (lambda m, t: (m, t.drop(columns='image_id')), 'no column image_id'),
    (lambda m, t: (m, None), 'labels=False'),
])
def test_what_does_not_fit_is_refused(tmp_path, spoil, said):
    for name, frame in zip(('manifest.csv', 'train.csv'), spoil(*preprocessed(tmp_path / 'out')), strict=True):
        (tmp_path / 'out' / name).unlink()
        if frame is not None:
            frame.to_csv(tmp_path / 'out' / name, index=False)
    with pytest.raises(ValueError, match=said):
        images(tmp_path / 'out', labels=True)


# Folds

patients = st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7)), min_size=2, max_size=40)  # images, positive ones


def table_of(patients):
    return pd.DataFrame([{'patient_id': f'p{i}', 'image_id': f'{i}-{j}', 'cancer': int(j < positive)}
                         for i, (n, positive) in enumerate(patients) for j in range(n)])


@settings(deadline=None)
@given(patients, st.integers(2, 6), st.integers(0, 3))
def test_folds(patients, n_folds, seed):
    frame = table_of(patients)
    positive = frame['patient_id'][frame['cancer'] == 1].nunique()
    if positive < n_folds:
        with pytest.raises(ValueError, match='folds'):
            folds(frame, n_folds, seed)
        return
    frame['fold'] = folds(frame, n_folds, seed)
    assert frame.groupby('patient_id')['fold'].nunique().max() == 1
    assert set(frame['fold']) == set(range(n_folds))
    women = frame.groupby('patient_id')[['fold', 'cancer']].max()
    for some in (women, women[women['cancer'] == 1]):
        n_patients = some['fold'].value_counts()
        assert len(n_patients) == n_folds and n_patients.max() - n_patients.min() <= 1
    shuffled = frame.sample(frac=1, random_state=seed)
    pd.testing.assert_series_equal(folds(shuffled, n_folds, seed).sort_index(), frame['fold'])


def test_seeds_give_other_folds():
    frame = table_of([(4, 2)] * 10 + [(4, 0)] * 30)
    assert len({tuple(folds(frame, seed=seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize('frame, n_folds, said', [
    (table_of([(4, 0)] * 9), 3, '0 of 9 patients have cancer'),
    (table_of([(4, 1)] * 3 + [(4, 0)] * 9), 5, 'try n_folds=3'),
    (table_of([(4, 1)] * 3), 1, 'at least 2'),
    (table_of([(4, 1)] * 3), 4, '4 folds of 3 patients'),
    (table_of([(4, 1)] * 3).drop(columns='cancer'), 2, 'no column cancer'),
    (table_of([(4, 1)] * 3).assign(cancer=np.nan), 2, '12 of 12 rows are not'),
])
def test_folds_that_cannot_be(frame, n_folds, said):
    with pytest.raises(ValueError, match=said):
        folds(frame, n_folds)


# Workers

def in_this_process(dataset, epoch):
    import torch
    dataset.set_epoch(epoch)
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='needs /proc')
def test_nothing_stays_open(out):
    frame = images(out)
    before = len(os.listdir('/proc/self/fd'))
    for row in frame.to_dict('records'):
        read_image(out, row)
    assert len(os.listdir('/proc/self/fd')) == before


@pytest.mark.parametrize('method', sorted({'fork', 'spawn'} & set(multiprocessing.get_all_start_methods())))
def test_workers_change_nothing(out, method):
    import torch
    dataset = ShardImages(out, images(out), augment=augment, seed=3)
    alone = [in_this_process(dataset, epoch) for epoch in range(3)]
    assert not alone[0].equal(alone[1])
    workers = torch.utils.data.DataLoader(dataset, batch_size=3, num_workers=2, persistent_workers=True,
                                          multiprocessing_context=method)
    for epoch in (0, 2, 1):  # running workers hear of a new epoch
        dataset.set_epoch(epoch)
        assert torch.cat([x for x, _ in workers]).equal(alone[epoch])


def test_order_changes_nothing(out):
    dataset = ShardImages(out, images(out), augment=augment)
    forwards = [dataset[i][0] for i in range(len(dataset))]
    assert all(dataset[i][0].equal(forwards[i]) for i in reversed(range(len(dataset))))


def test_it_pickles(out):
    dataset = ShardImages(out, images(out), augment=augment)
    dataset.set_epoch(5)
    again = pickle.loads(pickle.dumps(dataset))
    assert again[4][0].equal(dataset[4][0]) and again[4][1] == 1


def test_an_error_in_a_worker_names_the_image(out):
    import torch
    shard = out / 'shards' / '00001.tar'
    shard.write_bytes(shard.read_bytes()[:3000])
    workers = iter(torch.utils.data.DataLoader(ShardImages(out, images(out)), batch_size=3, num_workers=2))
    with pytest.raises(ValueError, match=r'image 90\d\d \(train_images.*shard 00001'):
        list(workers)
    workers._shutdown_workers()  # else they end with the garbage collection of the traceback, after 5 s each


# Targets

def of_columns(out):
    "Four breasts of four images; age is known for the first image of the second, and none of the third."
    age = np.repeat([40., 50, np.nan, 70], 4)
    age[5:8] = np.nan
    return images(out).assign(breast_id=np.repeat(list('abcd'), 4), age=age, biopsy=[0, 0, 1, 0] * 4)


def test_targets(out):
    frame = of_columns(out)
    several = ShardImages(out, frame, ('cancer', 'age', 'biopsy'))
    assert several.target.shape == (16, 3) and several.target.dtype == np.float32
    x, y = several[2]
    assert x.shape == (1, HEIGHT, WIDTH) and str(y.dtype) == 'torch.float32' and y.tolist() == [0, 40, 1]
    assert several[5][1].isnan().tolist() == [False, True, False]
    assert ShardImages(out, frame).target.shape == (16,) and ShardImages(out, frame)[4][1].shape == ()
    assert ShardImages(out, frame, ('cancer',)).target.shape == (16, 1)
    assert ShardImages(out, frame, None)[2].equal(x) and ShardImages(out, frame, None).target is None
    breasts = BreastImages(out, frame, ('cancer', 'age', 'biopsy'))
    np.testing.assert_array_equal(breasts.target, [[1, 40, 1], [1, 50, 1], [1, np.nan, 1], [1, 70, 1]])
    assert breasts[1][2].tolist() == [1, 50, 1] and len(breasts[1]) == 3
    assert BreastImages(out, frame, 'cancer').target.tolist() == [1] * 4 and len(BreastImages(out, frame, None)[0]) == 2


@pytest.mark.parametrize('kind', [ShardImages, BreastImages])
@pytest.mark.parametrize('target, said', [
    ('age', 'age is missing or infinite for 9005, 9006, 9007, 9008, 9009 and 2 more'),
    (('age', 'cancer'), 'age is missing'), (('cancer', 'far'), 'far is missing or infinite for 9003'),
    (('cancer', 'view'), 'target cancer, view: expected numbers, but .*MLO'),
    (('cancer', 'density', 'BIRADS'), 'no column density, BIRADS'), ('canc', 'no column canc')])
def test_targets_that_cannot_be(out, kind, target, said):
    far = np.where(np.arange(16) == 3, np.inf, 0)
    with pytest.raises(ValueError, match=said):
        kind(out, of_columns(out).assign(far=far), target)


def test_what_was_found_for_items_goes_back_to_rows(out):
    frame = of_breasts(out).sample(frac=1, random_state=1)
    assert ShardImages(out, frame).to_rows(np.arange(16)).tolist() == list(range(16))
    breasts = BreastImages(out, frame)
    found = np.array([ord(b[0]) + .5 for b in breasts.breast_ids])
    assert breasts.to_rows(found).tolist() == [ord(b[0]) + .5 for b in frame['breast_id']]
    with pytest.raises(ValueError, match='16 values: expected one for each of 4 items'):
        breasts.to_rows(np.arange(16))


# Damage

def test_unpacked_shards(tmp_path):
    out = tmp_path / 'out'
    for suffix in ('.png', '.jpeg'):
        manifest, _ = preprocessed(tmp_path / suffix / 'out', suffix=suffix)
        out = tmp_path / suffix / 'out'
        packed = [read_image(out, row) for row in images(out).to_dict('records')]
        for shard in (out / 'shards').glob('*.tar'):
            with tarfile.open(shard) as tar:
                tar.extractall(shard.with_suffix(''), filter='data')
            shard.unlink()
        for row, image in zip(images(out).to_dict('records'), packed, strict=True):
            np.testing.assert_array_equal(read_image(out, row), image)
    (out / 'shards' / '00000' / '100' / '9000.jpeg').unlink()
    with pytest.raises(ValueError, match='image 9000 .*neither'):
        read_image(out, images(out).iloc[0])


@pytest.mark.parametrize('damage, said', [
    (lambda data, row: data[:row['offset'] + 10], 'got 10; the file was cut short'),
    (lambda data, row: data[:row['offset']], 'got 0; the file was cut short'),
    (lambda data, row: data[:row['offset'] + 60] + b'\xff' * 20 + data[row['offset'] + 80:], 'no grayscale image'),
    (lambda data, row: b'\0' * 512 + data, 'no grayscale image'),
])
def test_damaged_shards(out, damage, said):
    row = images(out).iloc[8]
    shard = out / 'shards' / '00001.tar'
    shard.write_bytes(damage(shard.read_bytes(), row))
    with pytest.raises(ValueError, match=f'image 9008 .train_images/104/9008.dcm., shard 00001: .*{said}'):
        read_image(out, row)


def test_colour_is_refused(out):
    row = images(out).iloc[0].copy()
    data = cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    (out / 'shards' / '00000.tar').write_bytes(data)
    row['offset'], row['length'] = 0, len(data)
    with pytest.raises(ValueError, match='no grayscale image'):
        read_image(out, row)


# Augmentation

@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]))
def test_augmentation_keeps_shape_dtype_and_black(seed, dtype):
    image = picture(0, dtype)
    before = image.copy()
    seen = augment(image, np.random.default_rng(seed))
    assert seen.shape == image.shape and seen.dtype == dtype
    np.testing.assert_array_equal(image, before)
    assert not augment(np.zeros_like(image), np.random.default_rng(seed)).any()
    breast = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(breast, (0, HEIGHT // 2), (24, 26), 0, -90, 90, 255, -1)
    moved = augment(breast, np.random.default_rng(seed))
    assert moved[:, :WIDTH // 2].sum() > moved[:, WIDTH // 2:].sum()  # the chest wall stays on the left


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]), st.floats(0, .3), st.floats(0, 3),
       st.floats(0, .3), st.floats(0, 1))
def test_all_of_the_augmentation_keeps_shape_dtype_and_black(seed, dtype, shear, blur, noise, erase):
    def seen(image):
        return augment(image, np.random.default_rng(seed), shear=shear, blur=blur, noise=noise, erase=erase)
    image = picture(0, dtype)
    before = image.copy()
    assert seen(image).shape == image.shape and seen(image).dtype == dtype
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(seen(image), seen(image))
    assert not seen(np.zeros_like(image)).any()


STILL = {'turn_deg': 0, 'scale': 0, 'shift': 0, 'gain': 0, 'gamma': 0}


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 20), st.floats(0, .3), st.floats(0, .1), st.floats(0, .3))
def test_the_body_goes_on_beyond_the_chest_wall(seed, turn_deg, scale, shift, shear):
    "A grey strip from the chest wall outwards, that ends above and below: no hole at the chest wall, no tissue above."
    strip = np.zeros((HEIGHT, WIDTH), np.uint8)
    strip[20:44, :20] = 100
    moved = augment(strip, np.random.default_rng(seed), turn_deg, scale, shift, 0, 0, shear)
    row = int(np.flatnonzero(moved[:, 6] == 100).mean())  # the middle of the strip a little way from the chest wall
    assert (moved[row - 1:row + 2, :7] == 100).all()
    assert not moved[0, :4].any() and not moved[-1, :4].any()


def test_a_picture_that_does_not_move_right_is_as_before():
    "What OpenCV gives with black all around, where nothing comes in at the chest wall."
    image = picture(5)
    alone = cv2.warpAffine(image, np.array([[1.1, 0, -3.3], [0, 1.1, 1.7]]), (WIDTH, HEIGHT))
    with_body = cv2.warpAffine(*_with_body(image, np.array([[1.1, 0, -3.3], [0, 1.1, 1.7]])), (WIDTH, HEIGHT))
    np.testing.assert_array_equal(with_body, alone)
    right = np.array([[1., 0, 5], [0, 1, 0]])
    moved = cv2.warpAffine(*_with_body(image, right), (WIDTH, HEIGHT))
    np.testing.assert_array_equal(moved[:, 5:], image[:, :-5])
    np.testing.assert_array_equal(moved[:, :5], np.repeat(image[:, :1], 5, axis=1))
    scan = image.copy()
    scan[:, 0] = 0  # the dark rim of a film
    moved = cv2.warpAffine(*_with_body(scan, right), (WIDTH, HEIGHT))
    np.testing.assert_array_equal(moved[:, :6], np.repeat(image[:, 1:2], 6, axis=1))
    np.testing.assert_array_equal(moved[:, 6:], image[:, 1:-5])


def test_what_is_on_changes_nothing_else():
    image = picture(5) // 2
    erased = augment(image, np.random.default_rng(7), erase=.5)
    whole = augment(image, np.random.default_rng(7))
    assert (erased != whole).any() and not erased[erased != whole].any()
    rows, columns = np.nonzero(erased != whole)
    assert np.ptp(rows) < HEIGHT / 2 and np.ptp(columns) < WIDTH / 2
    assert augment(np.full((512, 256), 200, np.uint8), np.random.default_rng(7), **STILL, noise=.1).std() > 1
    step = np.repeat([[0] * 16 + [200] * 16], HEIGHT, axis=0).astype(np.uint8)
    blurred = augment(step, np.random.default_rng(7), **STILL, blur=3)
    assert 0 < np.abs(np.diff(blurred[30].astype(int))).max() < 200 and blurred[30, 0] == 0
    upright, leant = (augment(image, np.random.default_rng(7), **STILL, shear=shear) for shear in (0, .5))
    np.testing.assert_array_equal(leant[:, 0], upright[:, 0])  # the chest wall stays where it is
    assert (leant[:, 9] != upright[:, 9]).any()


def test_contrast_by_hand():
    "Brightness 1 + b·gain, exponent 1 + g·gamma, rounded and clipped; in 16 bits the same curve."
    chance = np.random.default_rng(7)
    flip, (_, _, _, _, bright, bend) = chance.random() < .5, chance.uniform(-1, 1, 6)
    grey = np.arange(256).reshape(16, 16)
    expected = 255 * np.clip((1 + .4 * bright) * (grey / 255) ** (1 + .3 * bend), 0, 1)
    expected = expected[::-1] if flip else expected
    changed = STILL | {'gain': .4, 'gamma': .3}
    seen = augment(grey.astype(np.uint8), np.random.default_rng(7), **changed)
    np.testing.assert_array_equal(seen, np.rint(expected))
    wide = augment((grey * 257).astype(np.uint16), np.random.default_rng(7), **changed)
    np.testing.assert_allclose(wide / 257, expected, atol=.51 / 257)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_noise_has_the_deviation_that_is_asked_for(dtype):
    "grain · noise · √(grey/white) · white, normal, without a pattern; grain is among the generator's first draws."
    top = np.iinfo(dtype).max
    chance = np.random.default_rng(7)
    chance.random(), chance.uniform(-1, 1, 6), chance.uniform(-1, 1)
    grain = chance.random(6)[1]
    for grey in (.16, .49):
        flat = np.full((512, 256), round(grey * top), dtype)
        noise = augment(flat, np.random.default_rng(7), **STILL, noise=.1).astype(float) - flat
        assert noise.std() == pytest.approx(grain * .1 * grey**.5 * top, rel=.02)
        assert abs(noise.mean()) < .01 * top * grain * .1
        z = noise / noise.std()
        assert abs((z**3).mean()) < .05 and (z**4).mean() == pytest.approx(3, abs=.2)  # as of the normal distribution
        for other in (z[1:, :] * z[:-1, :], z[:, 1:] * z[:, :-1], z[:256] * z[256:]): assert abs(other.mean()) < .02


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]))
def test_the_strong_augmentation_keeps_shape_dtype_black_and_chest_wall(seed, dtype):
    def seen(image): return augment_strongly(image, np.random.default_rng(seed))
    image = picture(0, dtype)
    assert seen(image).shape == image.shape and seen(image).dtype == dtype and not seen(np.zeros_like(image)).any()
    np.testing.assert_array_equal(seen(image), seen(image))
    breast = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(breast, (0, HEIGHT // 2), (24, 26), 0, -90, 90, 255, -1)
    assert seen(breast)[:, :WIDTH // 2].sum() > seen(breast)[:, WIDTH // 2:].sum()


@pytest.mark.parametrize('bad', [{'erase': 1.5}, {'erase': -.1}, {'blur': -1}, {'noise': -1}, {'scale': 10}])
def test_augmentation_that_cannot_be(bad):
    with pytest.raises(ValueError, match='expected at least 0, erase at most 1, scale below 1'):
        augment(picture(0), np.random.default_rng(0), **bad)


# Batches

def some_labels(positive, negative, seed):
    return np.random.default_rng(seed).permutation([1] * positive + [0] * negative)


labels = st.one_of(st.builds(some_labels, st.integers(0, 9), st.integers(1, 200), st.integers(0, 9)),  # few cancers
                   st.builds(some_labels, st.integers(1, 99), st.integers(0, 99), st.integers(0, 9)))


@settings(deadline=None)
@given(labels, st.integers(1, 40), st.sampled_from(['natural', 'positive', '1:1', '1:3', '1:20']), st.integers(0, 3),
       st.integers(0, 3))
@example(some_labels(1, 9, 0), 2, 'positive', 0, 0)
@example(some_labels(1, 9, 0), 3, '1:3', 0, 0)
@example(some_labels(9, 5, 0), 4, '1:3', 0, 0)
def test_batches(labels, batch_size, sampling, seed, epoch):
    n, positive = len(labels), int(labels.sum())
    share = 0 if sampling in ('natural', 'positive') else 1 + int(sampling[2:])
    if batch_size > n or (sampling != 'natural' and positive in (0, n)) or (share and positive * share < batch_size) \
            or (sampling == 'positive' and batch_size == 1):
        with pytest.raises(ValueError, match='batch' if batch_size > n else 'batch|expected both'):
            batches(labels, batch_size, sampling, seed, epoch)
        return
    table = batches(labels, batch_size, sampling, seed, epoch)
    np.testing.assert_array_equal(table, batches(labels, batch_size, sampling, seed, epoch))
    assert table.dtype == np.int64 and table.min() >= 0 and table.max() < n
    assert table.shape == ((positive * share or n) // batch_size, batch_size)
    times, in_batch = np.bincount(table.ravel(), minlength=n), labels[table].sum(1)
    if sampling == 'natural':
        assert times.max() == 1
        return
    assert in_batch.any() and np.ptp(in_batch) <= 1
    assert np.ptp(times[labels == 1]) <= 1 and np.ptp(times[labels == 0]) <= 1
    if sampling == 'positive':
        assert in_batch.min() >= 1 and times[labels == 0].max() <= 1
        assert all(len(set(b[labels[b] == 1])) == k for b, k in zip(table, in_batch, strict=True))
        assert positive > table.size or times[labels == 1].min() >= 1
    else:
        assert times[labels == 1].max() == 1
        assert 0 <= in_batch.sum() * share - table.size < share  # n negatives for each, the last perhaps fewer
        assert batch_size < share or in_batch.min() >= 1


@pytest.mark.parametrize('sampling', ['natural', 'positive', '1:3'])
def test_every_epoch_and_seed_has_its_own_batches(sampling):
    labels = (np.arange(500) % 20 == 0).astype(np.float32)
    tables = [batches(labels, 10, sampling, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({t.tobytes() for t in tables}) == 9
    if sampling == '1:3':  # other negatives every time
        assert len(set(np.concatenate([t[labels[t] == 0] for t in tables]))) > 300
    column = labels[np.concatenate(tables)].sum(0)
    assert column.min() > .4 * column.mean()  # no process, with columns of its own, gets all the positives


@pytest.mark.parametrize('labels, batch_size, sampling, said', [
    ([0, 1], 3, 'natural', 'batch_size 3: expected a whole number up to that of the items, 2'),
    ([0, 1], 0, 'natural', 'batch_size 0'),
    ([0, 1], 1.5, 'natural', 'batch_size 1.5'),
    ([], 1, 'natural', 'up to that of the items, 0'),
    ([0, .5], 1, 'natural', 'expected one 0 or 1'),
    ([0, np.nan], 1, 'natural', 'expected one 0 or 1'),
    ([[0, 1]], 1, 'natural', r'labels of shape \(1, 2\)'),
    ([0, 1], 2, '1:0', "sampling '1:0': expected"),
    ([0, 1], 2, '2:1', "sampling '2:1': expected"),
    ([0, 1], 2, None, 'sampling None: expected'),
    ([0, 0], 2, 'positive', "0 of 2 items are positive, expected both kinds; try 'natural'"),
    ([1, 1], 2, '1:2', '2 of 2 items are positive'),
    ([0, 1], 1, 'positive', 'no place for negatives'),
    ([0, 0, 0, 0, 1], 4, '1:2', '3 items an epoch do not fill a batch of 4'),
])
def test_batches_that_cannot_be(labels, batch_size, sampling, said):
    with pytest.raises(ValueError, match=said):
        batches(np.array(labels), batch_size, sampling)


# Breasts

def of_breasts(out):
    "Breasts of 1 to 7 of the 16 images, their views out of order."
    sizes = {'a_L': 1, 'b_R': 2, 'a_R': 6, 'c_L': 7}
    views = 'MLO  MLO CC  CC CC CC CC MLO LM  MLO CC MLO CC MLO CC CC'.split()
    return images(out).assign(view=views, breast_id=np.repeat(list(sizes), list(sizes.values())),
                              cancer=(np.arange(16) == 11).astype(int))


def which(seen):
    "The numbers of the pictures in a breast's tensor."
    return [next(i for i in range(16) if np.array_equal(x[0].numpy(), picture(i))) for x in seen]


def test_a_breast_is_an_item(out):
    breasts = BreastImages(out, of_breasts(out), n_max=3)
    assert len(breasts) == 4 and breasts.breast_ids.tolist() == ['a_L', 'b_R', 'a_R', 'c_L']
    assert breasts.target.tolist() == [0, 0, 0, 1]
    x, mask, y = breasts[1]
    assert x.shape == (3, 1, HEIGHT, WIDTH) and mask.tolist() == [True, True, False] and not x[2].any()
    assert str(x.dtype) == 'torch.uint8' and str(mask.dtype) == 'torch.bool' and y == 0
    first = [which(x[mask]) for x, mask, _ in (breasts[i] for i in range(4))]
    assert first == [[0], [2, 1], [3, 7, 8], [10, 12, 9]]  # CC first; each view once before any twice
    assert which(BreastImages(out, of_breasts(out), n_max=1)[3][0]) == [10]
    every = BreastImages(out, of_breasts(out), n_max=None)
    assert every.n_max == 7 and [every[i][1].sum().item() for i in range(4)] == [1, 2, 6, 7]
    assert which(every[2][0][:6]) == [3, 4, 5, 6, 7, 8]
    with pytest.raises(IndexError):
        breasts[4]
    shuffled = of_breasts(out).sample(frac=1, random_state=0)
    assert sorted(BreastImages(out, shuffled).breast_ids) == sorted(breasts.breast_ids)
    assert len(BreastImages(out, of_breasts(out), target=None)[0]) == 2


def test_training_draws_the_images_anew(out):
    breasts = BreastImages(out, of_breasts(out), augment=lambda image, rng: image, n_max=3)
    seen = []
    for epoch in range(30):
        breasts.set_epoch(epoch)
        x, mask, _ = breasts[2]
        seen.append(which(x[mask]))
        assert seen[-1] == which(breasts[2][0])
    assert all(i[0] in (3, 4, 5, 6) and i[1:] == [7, 8] for i in seen) and len({i[0] for i in seen}) == 4
    breasts.set_epoch(0)
    assert which(breasts[2][0]) == seen[0]
    one = BreastImages(out, of_breasts(out), augment=lambda image, rng: image, n_max=1)
    drawn = set()
    for epoch in range(60):
        one.set_epoch(epoch)
        drawn.add(which(one[2][0])[0])
    assert drawn == set(range(3, 9))  # every image has its day


@pytest.mark.parametrize('method', sorted({'fork', 'spawn'} & set(multiprocessing.get_all_start_methods())))
def test_workers_change_no_breast(out, method):
    import torch
    breasts = BreastImages(out, of_breasts(out), augment=augment, seed=3, n_max=3)
    alone = [in_this_process(breasts, epoch) for epoch in range(2)]
    assert not alone[0].equal(alone[1]) and pickle.loads(pickle.dumps(breasts))[2][0].equal(breasts[2][0])
    workers = torch.utils.data.DataLoader(breasts, batch_size=2, num_workers=2, persistent_workers=True,
                                          multiprocessing_context=method)
    for epoch in (1, 0):
        breasts.set_epoch(epoch)
        assert torch.cat([x for x, _, _ in workers]).equal(alone[epoch])


def test_sixteen_bits_through_workers_and_pinning(tmp_path):
    "What torch does with uint16: stack, send between processes and pin."
    import torch
    preprocessed(tmp_path / 'out', np.uint16)
    frame = of_breasts(tmp_path / 'out')
    breasts = BreastImages(tmp_path / 'out', frame, augment=augment_strongly, n_max=3)
    alone = in_this_process(breasts, 0)
    assert alone.dtype == torch.uint16 and alone.to(torch.float32).max() > 256
    loader = torch.utils.data.DataLoader(breasts, 2, num_workers=2, pin_memory=torch.cuda.is_available())
    assert torch.cat([x for x, _, _ in loader]).equal(alone)


def test_breasts_that_cannot_be(out):
    frame = of_breasts(out)
    with pytest.raises(ValueError, match='no column breast_id, view'):
        BreastImages(out, frame.drop(columns=['breast_id', 'view']))
    with pytest.raises(ValueError, match='n_max 0'):
        BreastImages(out, frame, n_max=0)
    with pytest.raises(ValueError, match='cancer is missing or infinite for 9003'):
        BreastImages(out, frame.assign(cancer=frame['cancer'].where(frame.index != 3)))
    data = cv2.imencode('.png', np.zeros((8, 8), np.uint8))[1].tobytes()
    shard = out / 'shards' / '00000.tar'
    shard.write_bytes(shard.read_bytes() + data)
    frame.loc[1, ['offset', 'length']] = shard.stat().st_size - len(data), len(data)
    with pytest.raises(ValueError, match=r'image 9001 is \(8, 8\), another of breast b_R \(64, 32\)'):
        BreastImages(out, frame)[1]
