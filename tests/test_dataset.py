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
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_kit.dataset import ShardImages, augment, folds, images, read_image

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
    np.testing.assert_array_equal((x[0].numpy().astype(float) * 65535).round(), picture(9, np.uint16))
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
