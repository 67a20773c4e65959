"Reading against pydicom, on files of every syntax one meets and on files that nobody can read."
import io
import subprocess
import sys
import warnings

import numpy as np
import pydicom
import pytest
from conftest import real_files
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_kit import dicom, phantom
from mammo_kit.dicom import read, read_bytes


def reference(path):
    "pydicom's pixels, or None if it cannot read the file as one grayscale frame."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = pydicom.dcmread(path)
            pixels = ds.pixel_array
        except Exception:  # noqa: BLE001 pydicom raises many kinds; any of them means that it cannot
            return None
    return pixels if pixels.ndim == 2 and ds.PhotometricInterpretation.startswith("MONOCHROME") else None


@pytest.fixture(params=[True, False], ids=["imagecodecs", "without imagecodecs"])
def codecs(request, monkeypatch):
    if not request.param:
        monkeypatch.setitem(sys.modules, "imagecodecs", None)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", real_files("conformance", "mg"))
def test_real_files_equal_pydicom_or_are_refused(path, codecs):
    expected = reference(path)
    if expected is None:
        with pytest.raises(ValueError, match=path.name):
            read(path)
    else:
        image = read(path)
        assert image.pixels.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(image.pixels, expected)


def without_plug_ins(monkeypatch):
    "As on a bare Kaggle image: pydicom has no plug-in, imagecodecs is absent."
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setattr(dicom, "_pydicom_decodes", lambda syntax: False)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["dicom-test-files-WG04--RG1_JLSN", "pydicom-data--JLSL_16_15_1_1F.dcm",
                                  "pydicom--MR_small_RLE.dcm"])
def test_dicomsdl_helps_out_where_pydicom_has_no_plug_in(data, name, monkeypatch):
    expected = reference(data / "conformance" / name)
    without_plug_ins(monkeypatch)
    np.testing.assert_array_equal(read(data / "conformance" / name).pixels, expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_parsers_build_the_same_header(data):
    compared = 0
    for path in [*(data / "conformance").iterdir(), *(data / "mg").iterdir()]:
        if reference(path) is None:
            continue
        theirs = dicom._pydicom_header(pydicom.dcmread(path))
        assert header_text(read(path).header) == header_text(theirs), path.name
        compared += 1
    assert compared > 40


def header_text(h):
    return str(h), [(lut.first_mapped, lut.bits, lut.data.tolist()) for lut in (*h.modality_luts, *h.voi_luts)]


@pytest.fixture(scope="module")
def encoded() -> dict[str, bytes]:
    "A small phantom in each transfer syntax."
    breast = phantom.mammogram(3, shape=(128, 104), pixel_spacing_mm=1.76)
    files = {}
    for machine in (48, 49, 93):  # JPEG lossless, JPEG 2000, uncompressed
        m, buffer = phantom.MACHINES[machine], io.BytesIO()
        phantom.dicom_dataset(phantom.stored_values(breast.pixels, m), m, patient_id=1, image_id=2, laterality="L",
                              view="CC", pixel_spacing_mm=1.76).save_as(buffer, enforce_file_format=True)
        files[m.transfer_syntax] = buffer.getvalue()
    return files


def test_a_file_cut_anywhere_is_refused(encoded):
    for data in encoded.values():
        read_bytes(data)
        for at in [*range(0, 2000, 37), *range(2000, len(data) - 20, len(data) // 60)]:
            with pytest.raises(ValueError, match="scan.dcm"):
                read_bytes(data[:at], "scan.dcm")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_length_field_never_reaches_the_decoder(encoded, data):
    "dicomsdl would end this process; that it lives on is the test."
    good = encoded[data.draw(st.sampled_from(sorted(encoded)))]
    rows_at = good.find(b"\x28\x00\x10\x00US")
    value = data.draw(st.sampled_from([0, 2, 4096, 65535]))
    damaged = good[:rows_at + 6] + value.to_bytes(2, "little") + good[rows_at + 8:]
    try:
        read_bytes(damaged, "scan.dcm")
    except ValueError as e:
        assert "scan.dcm" in str(e)


def damaged(data, rng):
    "The file with its pixel data damaged in one of eight ways."
    first = data.rindex(b"\xe0\x7f\x10\x00") + 40
    at, n = int(rng.integers(first, len(data) - 20)), int(rng.choice([1, 2, 16, 300]))
    middle, noise = data[at:at + n], rng.bytes(n)
    return [lambda: data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1:],
            lambda: data[:at] + noise + data[at + n:], lambda: data[:at] + bytes(len(middle)) + data[at + n:],
            lambda: data[:at] + data[at + n:], lambda: data[:at] + middle + middle + data[at + n:],
            lambda: data[:at] + noise + data[at:], lambda: data[:at] + data[-10:],
            lambda: data[:at] + rng.choice([b"\xff\xd9", b"\xff\x90", b"\xff\xc3", b"\xff\x00"]) + data[at + 2:],
            ][rng.integers(8)]()


def with_its_lengths_right(data, original):
    "What is lost or gained is told by the length of the last fragment, so that only the code stream is wrong."
    at = original.rindex(b"\xfe\xff\x00\xe0") + 4
    length = int.from_bytes(original[at:at + 4], "little") + len(data) - len(original)
    return data[:at] + max(length, 0).to_bytes(4, "little") + data[at + 4:]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax, least", [(phantom.JPEG_LOSSLESS, 60), (phantom.JPEG_2000, 40)])
def test_damaged_pixel_data_are_refused_or_read_as_pydicom_reads_them(encoded, syntax, least):
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        data = with_its_lengths_right(damaged(encoded[syntax], rng), encoded[syntax])
        try: pixels = read_bytes(data).pixels
        except ValueError:
            refused += 1
            continue
        np.testing.assert_array_equal(pixels, pydicom.dcmread(io.BytesIO(data)).pixel_array)
    assert refused > least


def test_more_rows_than_pixels_is_refused(encoded):
    for data in encoded.values():
        at = data.find(b"\x28\x00\x10\x00US") + 8
        with pytest.raises(ValueError, match="60000x104"):
            read_bytes(data[:at] + (60000).to_bytes(2, "little") + data[at + 2:])


def test_colour_says_what_was_expected(encoded):
    ds = pydicom.dcmread(io.BytesIO(encoded[phantom.UNCOMPRESSED]))
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    buffer = io.BytesIO()
    ds.save_as(buffer)
    with pytest.raises(ValueError, match="is RGB.*expected grayscale"):
        read_bytes(buffer.getvalue())


def test_text_in_a_number_is_nan(encoded):
    data = encoded[phantom.JPEG_2000]
    at = data.find(b"\x28\x00\x50\x10DS") + 8  # Window Center (0028,1050)
    (center,) = read_bytes(data[:at] + b"abcd" + data[at + 4:]).header.window_center
    assert np.isnan(center)


@pytest.mark.parametrize("frames", [b"1A", b".5", b"x "])
def test_a_number_of_frames_that_is_none_is_refused(encoded, frames):
    ds = pydicom.dcmread(io.BytesIO(encoded[phantom.UNCOMPRESSED]))
    ds.NumberOfFrames = 11
    buffer = io.BytesIO()
    ds.save_as(buffer)
    at = buffer.getvalue().find(b"\x28\x00\x08\x00IS\x02\x00") + 8
    with pytest.raises(ValueError, match="scan.dcm: NumberOfFrames is .* expected an integer"):
        read_bytes(buffer.getvalue()[:at] + frames.ljust(2)[:2] + buffer.getvalue()[at + 2:], "scan.dcm")


def test_the_interpreter_exits():
    "dicomsdl's logger, left in place, would hang it."
    code = "from mammo_kit import dicom; dicom._sdl_open(b'\\0' * 200)"
    subprocess.run([sys.executable, "-c", code], timeout=30, check=False)


def with_a_negative_lut():
    "A data set under a VOI LUT whose first value is -1024."
    ds = phantom.dicom_dataset(np.zeros((32, 32), np.uint16), phantom.MACHINES[93], patient_id=1, image_id=2,
                               laterality="L", view="CC", pixel_spacing_mm=1)
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS", [4096, -1024, 12])
    item.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    ds.VOILUTSequence = [item]
    return ds


def first_mapped(file) -> list[int]:
    "Of the VOI LUT, by either parser and by `read`."
    data = file.read_bytes()
    headers = (dicom._sdl_header(dicom._sdl_open(data)), dicom._pydicom_header(pydicom.dcmread(io.BytesIO(data))),
               read(file).header)
    return [header.voi_luts[0].first_mapped for header in headers]


def test_the_sign_of_a_lut_is_that_of_its_own_vr(tmp_path):
    "Unsigned pixels, rescaled below 0, as CT has it."
    with_a_negative_lut().save_as(tmp_path / "lut.dcm", enforce_file_format=True)
    expected = pydicom.dcmread(tmp_path / "lut.dcm").VOILUTSequence[0].LUTDescriptor[1]
    assert first_mapped(tmp_path / "lut.dcm") == [expected] * 3 == [-1024] * 3


def test_in_implicit_vr_the_sign_of_a_lut_is_that_of_the_pixels(tmp_path):
    ds = with_a_negative_lut()
    ds.PixelRepresentation, ds.file_meta.TransferSyntaxUID = 1, pydicom.uid.ImplicitVRLittleEndian
    ds.save_as(tmp_path / "lut.dcm", implicit_vr=True, enforce_file_format=True)
    assert first_mapped(tmp_path / "lut.dcm") == [-1024] * 3
