"The synthetic competition: its files are real DICOM, its truth is true, and the seed decides every byte."
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from mammo_kit import phantom
from mammo_kit.phantom import JPEG_2000, JPEG_LOSSLESS, MACHINES, UNCOMPRESSED, draw_lesions, mammogram, write_dicom

SCALE = .15
# As Kaggle's data page lists them.
TRAIN = ('site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id,'
         'difficult_negative_case')
TEST = 'site_id,patient_id,image_id,laterality,view,age,implant,machine_id,prediction_id'


def small_mammogram(laterality='L', view='MLO', density='C', seed=3, lesions=None):
    if lesions is None: lesions = draw_lesions(np.random.default_rng(6), cancer=True, benign=True)
    return mammogram(seed, laterality, view, density, lesions, (410, 333), .55)


@pytest.fixture(scope='module')
def image():
    return small_mammogram()


@pytest.fixture(scope='module')
def competition(tmp_path_factory):
    return phantom.make_competition(tmp_path_factory.mktemp('competition') / 'one', patients=9, seed=4, test_patients=4,
                                    scale=SCALE, workers=1, progress=False)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def displayed(ds):
    "What pydicom shows, in [0, 1] of the range of bits stored."
    with warnings.catch_warnings(action='ignore', category=UserWarning):
        shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds) / (2**ds.BitsStored - 1)
    return 1 - shown if ds.PhotometricInterpretation == 'MONOCHROME1' else shown


def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path):
    kwargs = {'patients': 3, 'test_patients': 1, 'scale': SCALE, 'progress': False}
    one = files(phantom.make_competition(tmp_path / 'one', workers=1, **kwargs))
    two = files(phantom.make_competition(tmp_path / 'two', workers=2, **kwargs))
    other = files(phantom.make_competition(tmp_path / 'other', workers=1, seed=1, **kwargs))
    assert one == two
    assert one['train.csv'] != other['train.csv']
    assert len([name for name in one if name.endswith('.dcm')]) >= 16


def test_layout_and_columns(competition):
    header = {name: (competition / f'{name}.csv').read_text().splitlines()[0] for name in
              ('train', 'test', 'sample_submission', 'solution', 'truth')}
    assert header == {'train': TRAIN, 'test': TEST, 'sample_submission': 'prediction_id,cancer',
                      'solution': 'prediction_id,cancer',
                      'truth': 'split,patient_id,image_id,laterality,view,kind,malignant,x,y,radius'}
    for split in ('train', 'test'):
        table = pd.read_csv(competition / f'{split}.csv')
        expected = {f'{row.patient_id}/{row.image_id}.dcm' for row in table.itertuples()}
        folder = competition / f'{split}_images'
        assert {str(path.relative_to(folder)) for path in folder.rglob('*.dcm')} == expected
        assert table.image_id.is_unique
        views = table.groupby(['patient_id', 'laterality']).view.agg(set)
        assert (views == {'CC', 'MLO'}).all() and len(views) == 2 * table.patient_id.nunique()


def test_labels_tell_one_story(competition):
    train, test, truth, solution = (pd.read_csv(competition / f'{name}.csv') for name in
                                    ('train', 'test', 'truth', 'solution'))
    breast = train.groupby(['patient_id', 'laterality'])
    assert (breast[['cancer', 'biopsy', 'invasive']].nunique() == 1).all(axis=None)
    assert breast.cancer.first().sum() == round(.25 * 18) and solution.cancer.sum() == round(.25 * 8)
    assert (train.biopsy >= train.cancer).all() and (train.cancer >= train.invasive).all()
    assert not (train.difficult_negative_case & (train.cancer == 1)).any()
    assert train[train.site_id == 2][['density', 'BIRADS']].isna().all(axis=None)
    assert train[train.site_id == 1][['density', 'BIRADS']].notna().all(axis=None)
    assert list(solution.prediction_id) == list(test.prediction_id.drop_duplicates())
    assert not set(train.patient_id) & set(test.patient_id)
    malignant = truth[truth.malignant == 1]
    answers = test.merge(solution, on='prediction_id')
    positive = set(train[train.cancer == 1].image_id) | set(answers[answers.cancer == 1].image_id)
    assert set(malignant.image_id) == positive  # seen in every view of the breast, and in no other


def test_truth_lies_in_the_breast(competition):
    truth = pd.read_csv(competition / 'truth.csv')
    for row in truth.itertuples():
        ds = pydicom.dcmread(competition / f'{row.split}_images' / str(row.patient_id) / f'{row.image_id}.dcm')
        assert (ds.ImageLaterality, ds.ViewPosition) == (row.laterality, row.view)
        assert displayed(ds)[int(row.y), int(row.x)] > .15
        chest_wall = row.x if row.laterality == 'L' else ds.Columns - 1 - row.x
        assert chest_wall < .8 * ds.Columns


@pytest.mark.parametrize('seed', range(12))
def test_findings_lie_inside_and_equally_far_behind_the_nipple(seed):
    lesions = draw_lesions(np.random.default_rng(seed), cancer=True, benign=True, difficulty='hard')
    depth = []
    for view, laterality in product(('CC', 'MLO'), 'LR'):
        p = small_mammogram(laterality, view, 'ABCD'[seed % 4], seed, lesions)
        assert p.pixels.dtype == np.float32 and p.pixels.max() <= 1
        assert not p.pixels[~p.breast_mask].any() and p.pixels[p.breast_mask].min() > 0
        assert [f.kind for f in p.findings] == [lesion.kind for lesion in lesions]
        assert all(p.breast_mask[int(f.y), int(f.x)] for f in p.findings)
        columns = np.flatnonzero(p.breast_mask.any(0))
        nipple = columns[-1] if laterality == 'L' else columns[0]
        depth.append([abs(nipple - f.x) * .55 for f in p.findings])
    assert np.ptp(depth, axis=0).max() < 10  # mm


@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('bits', [10, 12, 14, 16])
@pytest.mark.parametrize('syntax', [JPEG_LOSSLESS, JPEG_2000, UNCOMPRESSED])
def test_every_encoding_reads_back_equal(tmp_path, image, syntax, bits, photometric):
    machine = replace(MACHINES[49], transfer_syntax=syntax, bits_stored=bits, photometric_interpretation=photometric)
    write_dicom(tmp_path / 'a.dcm', image, machine, patient_id=1, image_id=2, age=50)
    stored = phantom.stored_values(image.pixels, machine)
    ds = pydicom.dcmread(tmp_path / 'a.dcm')
    assert ds.file_meta.TransferSyntaxUID == syntax and ds.BitsStored == bits and ds.BitsAllocated == 16
    np.testing.assert_array_equal(ds.pixel_array, stored)
    assert stored.max() < 2**bits
    dicomsdl = pytest.importorskip('dicomsdl')
    np.testing.assert_array_equal(dicomsdl.open(str(tmp_path / 'a.dcm')).pixelData(storedvalue=True), stored)


def test_code_streams_are_what_the_transfer_syntax_says(image):
    stored = phantom.stored_values(image.pixels, MACHINES[49])
    jpeg, j2k = (phantom.encode(stored, syntax, 12) for syntax in (JPEG_LOSSLESS, JPEG_2000))
    frame, scan = jpeg.index(b'\xff\xc3'), jpeg.index(b'\xff\xda')  # SOF3: lossless, Huffman
    assert jpeg[frame + 4] == 12        # precision
    assert jpeg[scan + 7] == 1          # selection value 1: the left neighbour
    assert j2k[:4] == b'\xff\x4f\xff\x51'  # a raw code stream, no JP2 box around it
    cod = j2k.index(b'\xff\x52')
    assert j2k[cod + 9] == 5 and j2k[cod + 13] == 1  # five decompositions, the reversible 5-3 wavelet


@pytest.mark.parametrize('machine', list(MACHINES.values()), ids=lambda m: str(m.machine_id))
def test_every_machine_shows_the_same_breast(tmp_path, image, machine):
    write_dicom(tmp_path / 'a.dcm', image, machine, patient_id=1, image_id=2)
    ds = pydicom.dcmread(tmp_path / 'a.dcm')
    shown = displayed(ds)
    inside, outside = shown[image.breast_mask].mean(), shown[~image.breast_mask].mean()
    assert abs(inside - image.pixels[image.breast_mask].mean()) < .01 and outside < .01
    assert abs(shown - image.pixels).max() < .006
    assert ('PixelPaddingValue' in ds) == machine.padding
    assert ds.get('VOILUTFunction', '') == ('' if machine.voi == 'LUT' else machine.voi)


def test_the_machines_cover_what_readers_meet():
    machines = MACHINES.values()
    assert {m.transfer_syntax for m in machines} == {JPEG_LOSSLESS, JPEG_2000, UNCOMPRESSED}
    assert {m.bits_stored for m in machines} == {10, 12, 14, 16}
    assert {m.voi for m in machines} == {'LINEAR', 'LINEAR_EXACT', 'SIGMOID', 'LUT', ''}
    assert {m.photometric_interpretation for m in machines} == {'MONOCHROME1', 'MONOCHROME2'}
    assert any(len(m.windows) > 1 for m in machines) and {m.site_id for m in machines} == {1, 2}
    assert all(2e6 < np.prod(m.shape) < 5e6 for m in machines)


def test_the_header_has_what_the_standard_requires(tmp_path, image):
    write_dicom(tmp_path / 'a.dcm', image, MACHINES[29], patient_id=10006, image_id=7, age=61)
    ds = pydicom.dcmread(tmp_path / 'a.dcm')
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert ds.SOPClassUID == '1.2.840.10008.5.1.4.1.1.1.2'  # Digital Mammography X-Ray Image - For Presentation
    assert (ds.PatientID, ds.PatientAge) == ('10006', '061Y')
    assert (ds.Modality, ds.PresentationIntentType) == ('MG', 'FOR PRESENTATION')
    assert list(ds.ImagerPixelSpacing) == [.55, .55] and ds.PresentationLUTShape == 'INVERSE'
    for keyword in ('StudyInstanceUID', 'SeriesInstanceUID', 'ImageType', 'AnatomicRegionSequence', 'ViewCodeSequence',
                    'RescaleIntercept', 'RescaleSlope', 'PixelIntensityRelationship', 'BurnedInAnnotation'):
        assert ds.get(keyword) is not None, keyword


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='not an empty folder'):
        phantom.make_competition(tmp_path, patients=1)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize(('wrong', 'message'), [
    ({'patients': 0}, '0 training'), ({'cancer_rate': 1.5}, 'between 0 and 1'), ({'scale': 9}, '0.1'),
    ({'difficulty': 'trivial'}, 'easy, medium, hard')])
def test_impossible_requests_are_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message): phantom.make_competition(tmp_path / 'out', **wrong)
    assert not (tmp_path / 'out').exists()


def test_importing_it_imports_nothing_heavy():
    code = 'import sys, mammo_kit.phantom; print(*sys.modules)'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert not {'torch', 'cv2', 'pandas', 'pydicom', 'imagecodecs', 'tqdm'} & set(loaded)
