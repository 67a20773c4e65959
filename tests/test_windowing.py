"Grey values are pydicom's, within half a level: on real files, on random headers, and worked out by hand."
import copy
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from mammo_kit import windowing
from mammo_kit.dicom import Header, Image, Lut, read
from mammo_kit.windowing import PE_WINDOWS, channels, display, lookup_table, window_flags

DATA = Path(__file__).parents[2] / "shared" / "data"
FILES = sorted(p for folder in ("conformance", "mg") for p in (DATA / folder).glob("*"))
NAN = float("nan")

# The files that pydicom cannot window, by what it says, and the attributes under which it shows what we do.
PYDICOM_RAISES = {
    # every attribute of the two modules is there, and empty
    "dwv--leadtools-flowers-16-mono2-rle.dcm": ("not subscriptable", dict.fromkeys(
        ["ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTSequence"])),
    # width 0, and .21
    "fo-dicom--GH1261.dcm": ("Window Width must be", {"WindowCenter": None, "WindowWidth": None}),
    "fo-dicom--RI6XDosiGap.dcm": ("Window Width must be", {"VOILUTFunction": "LINEAR_EXACT"}),
}


def whole_range(dtype):
    "A picture of every value that an 8 or 16-bit `dtype` can hold."
    bits = 8 * np.dtype(dtype).itemsize
    return np.arange(2**bits, dtype=f"u{bits // 8}").view(dtype).reshape(-1, 16)


def with_16_bit_entries(ds):
    "A copy whose VOI LUTs have the same values in entries of 16 bits."
    ds = copy.deepcopy(ds)
    for item in ds.get("VOILUTSequence") or (): item.LUTDescriptor = [*item.LUTDescriptor[:2], 16]
    return ds


def exact_grey(stored, ds, bits=8, index=0):
    """The grey value in float64, its v by pydicom, and where it can be compared: pydicom casts the index into a VOI LUT
    to the type of its entries, so what lies further than 65,535 from the first overflows; and entries of 8 bits are
    given to it as 16-bit ones, because there an index above 255 overflows or, with numpy 2.0, raises."""
    # Widened, because pydicom subtracts the first mapped value in the type of the pixels.
    wide = stored.astype(np.int64) if stored.dtype.kind in "iu" else stored
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings(action="ignore", category=UserWarning):
        modality = apply_modality_lut(wide, ds)
        if modality.dtype.kind in "iu": modality = modality.astype(np.int64)
        v = np.asarray(apply_voi_lut(modality, with_16_bit_entries(ds), index), np.float64)
    comparable = np.ones(stored.shape, bool)
    if "VOILUTSequence" in ds:
        _, first, depth = ds.VOILUTSequence[index].LUTDescriptor
        y_min, y_max = 0, 2**depth - 1
        comparable = modality - first < 2**16
    elif "ModalityLUTSequence" in ds: y_min, y_max = 0, 2**ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        n = ds.BitsStored
        y_min, y_max = (-2**(n - 1), 2**(n - 1) - 1) if ds.PixelRepresentation else (0, 2**n - 1)
        if "RescaleSlope" in ds and "RescaleIntercept" in ds:
            y_min, y_max = (float(ds.RescaleSlope) * y + float(ds.RescaleIntercept) for y in (y_min, y_max))
    part = np.clip((v - y_min) / (y_max - y_min), 0, 1)
    if ds.PhotometricInterpretation == "MONOCHROME1": part = 1 - part
    return (2**bits - 1) * part, comparable


def assert_half_a_level(grey, exact, comparable=...):
    assert np.abs(grey - exact)[comparable].max(initial=0) <= .5 + 1e-6


# Real files

@pytest.mark.skipif(not FILES, reason="the conformance and mg files are not here (../shared/data)")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_file_as_pydicom_shows_it(path):
    try: image = read(path)
    except ValueError as e: pytest.skip(f"not a readable grayscale frame: {e}")
    ds = pydicom.dcmread(path)
    if path.name in PYDICOM_RAISES:
        message, attributes = PYDICOM_RAISES[path.name]
        with pytest.raises((ValueError, TypeError), match=message):
            apply_voi_lut(apply_modality_lut(image.pixels, ds), ds)
        for keyword, value in attributes.items():
            if value is None: delattr(ds, keyword)
            else: setattr(ds, keyword, value)
    views = len(image.header.voi_luts) or len(image.header.window_center) or 1
    for index in range(views):
        for bits in (8, 16):
            grey = display(image, bits, index if views > 1 else "first")
            assert grey.dtype == f"u{bits // 8}" and grey.shape == image.pixels.shape
            assert_half_a_level(grey, *exact_grey(image.pixels, ds, bits, index))


@pytest.mark.skipif(not FILES, reason="the conformance and mg files are not here (../shared/data)")
def test_what_is_odd_about_the_files():
    flags = {}
    for path in FILES:
        try: flags[path.name] = window_flags(read(path).header)
        except ValueError: continue
    assert len(flags) >= 40
    assert {name: found for name, found in flags.items() if found} == {
        "fo-dicom--GH1261.dcm": ("window_width_not_positive",), "fo-dicom--RI6XDosiGap.dcm": ("window_width_below_1",)}


# Random headers, each as a pydicom Dataset and as a Header

def dataset(header: Header) -> pydicom.Dataset:
    "The same header for pydicom."
    ds = pydicom.Dataset()
    ds.PhotometricInterpretation, ds.SamplesPerPixel = header.photometric_interpretation, 1
    ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation = 16, header.bits_stored, header.pixel_representation
    if header.rescale_slope is not None: ds.RescaleSlope = header.rescale_slope
    if header.rescale_intercept is not None: ds.RescaleIntercept = header.rescale_intercept
    if header.window_center: ds.WindowCenter, ds.WindowWidth = list(header.window_center), list(header.window_width)
    if header.voi_lut_function: ds.VOILUTFunction = header.voi_lut_function
    for keyword, luts in (("ModalityLUTSequence", header.modality_luts), ("VOILUTSequence", header.voi_luts)):
        if luts: setattr(ds, keyword, [lut_item(lut) for lut in luts])
    return ds


def lut_item(lut: Lut) -> pydicom.Dataset:
    item = pydicom.Dataset()
    vr = "SS" if lut.first_mapped < 0 else "US"
    item.add_new("LUTDescriptor", vr, [len(lut.data) % 65536, lut.first_mapped, lut.bits])
    item.add_new("LUTData", "US", lut.data.tolist())
    return item


def decimals(low, high, places=3):
    return st.decimals(low, high, places=places).map(float)


@st.composite
def drawn_lut(draw, depths, first):
    bits, n = draw(st.sampled_from(depths)), draw(st.integers(2, 600) | st.sampled_from([4096, 40000]))
    data = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2**bits, n)
    return Lut(draw(first), bits, (np.sort(data) if draw(st.booleans()) else data).astype(np.uint16))


@st.composite
def drawn_header(draw, signed=None):
    signed = draw(st.booleans()) if signed is None else signed
    found = {"bits_stored": draw(st.integers(8, 16)), "pixel_representation": int(signed),
             "photometric_interpretation": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))}
    modality, voi = draw(st.sampled_from(["", "rescale", "lut"])), draw(st.sampled_from(["", "window", "lut"]))
    first = st.integers(-3000, 3000) if signed or modality == "rescale" else st.integers(0, 5000)
    if modality == "rescale":
        slope = st.sampled_from([1.0, -1.0, .5]) | decimals(-10, 10).filter(bool)
        found |= {"rescale_slope": draw(slope), "rescale_intercept": draw(decimals(-5000, 5000))}
    if modality == "lut": found["modality_luts"] = (draw(drawn_lut([8, 16], first)),)
    if voi == "window":
        n, function = draw(st.integers(1, 3)), draw(st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]))
        narrowest = ".01" if function in ("LINEAR_EXACT", "SIGMOID") else 1
        width = st.just(1.0) | decimals(narrowest, 70000)
        found |= {"voi_lut_function": function, "window_center": tuple(draw(decimals(-5000, 70000)) for _ in range(n)),
                  "window_width": tuple(draw(width) for _ in range(n))}
    if voi == "lut":
        found["voi_luts"] = tuple(draw(st.lists(drawn_lut([8, 10, 12, 16], first), min_size=1, max_size=2)))
        if draw(st.booleans()): found |= {"window_center": (40.0,), "window_width": (400.0,)}  # the LUT goes before it
    return Header(**found)


def views(header): return len(header.voi_luts) or len(header.window_center) or 1


@settings(max_examples=120, deadline=None)
@given(drawn_header(), st.data())
def test_every_stored_value_as_pydicom_shows_it(header, data):
    index = data.draw(st.integers(0, views(header) - 1))
    dtype = ("i" if header.signed else "u") + ("1" if header.bits_stored == 8 and data.draw(st.booleans()) else "2")
    stored = whole_range(dtype)
    for bits in (8, 16):
        grey = display(Image(stored, header), bits, index or "first")
        assert_half_a_level(grey, *exact_grey(stored, dataset(header), bits, index))


@settings(max_examples=60, deadline=None)
@given(drawn_header(), st.sampled_from(["u4", "i4", "f4", "f8"]))
def test_wide_and_float_pixels_as_pydicom_shows_them(header, dtype):
    stored = np.linspace(-70000, 140000, 5001).reshape(3, -1)
    stored = (np.maximum(stored, 0) if dtype == "u4" else stored).astype(dtype)
    if header.modality_luts and stored.dtype.kind == "f":  # pydicom takes no fractional index into a Modality LUT
        stored = np.trunc(stored)
        exact = exact_grey(stored.astype(np.int64), dataset(header))
    else: exact = exact_grey(stored, dataset(header))
    assert_half_a_level(display(Image(stored, header)), *exact)


@settings(max_examples=60, deadline=None)
@given(drawn_header())
def test_the_table_holds_what_the_formula_gives(header):
    stored = whole_range("i2" if header.signed else "u2")
    wide = stored.astype(np.int32)
    for bits in (8, 16):
        np.testing.assert_array_equal(display(Image(stored, header), bits), display(Image(wide, header), bits))
        table = lookup_table(header, stored.dtype, bits)
        np.testing.assert_array_equal(table[stored.view(np.uint16)], display(Image(stored, header), bits))


# Worked out by hand

@pytest.mark.parametrize("center, width, function, values, greys", [
    # LINEAR from c - .5 - (w-1)/2 to c - .5 + (w-1)/2, here 0 to 4095: 2047 is 127.469, 2048 127.531, 16 0.996
    (2048, 4096, None, [0, 16, 2047, 2048, 4094, 4095], [0, 1, 127, 128, 255, 255]),
    # -160 to 239: -1 is 159/399 * 255 = 101.6, 39 is 127.18, 40 127.8
    (40, 400, "LINEAR", [-1000, -160, -1, 39, 40, 239, 300], [0, 0, 102, 127, 128, 255, 255]),
    # -160 to 240: 239 is 399/400 * 255 = 254.36, 40 127.5
    (40, 400, "LINEAR_EXACT", [-160, 39, 239, 240], [0, 127, 254, 255]),
    # a threshold: black up to 127, C.11.2.1.2.1 for width 1
    (128, 1, "LINEAR", [0, 127, 128, 4095], [0, 0, 255, 255]),
    (128.5, 1, "LINEAR", [127, 128, 129], [0, 0, 255]),
    # 255 / (1 + e^-4z): z = 0 127.5, z = 1/2 224.6, z = -1 4.59
    (1000, 400, "SIGMOID", [600, 1000, 1200], [5, 128, 225]),
])
def test_windows_by_hand(center, width, function, values, greys):
    header = Header(pixel_representation=1, bits_stored=16, window_center=(center,), window_width=(width,),
                    voi_lut_function=function)
    assert display(Image(np.array([values], np.int16), header)).tolist() == [greys]
    inverted = replace(header, photometric_interpretation="MONOCHROME1")
    assert display(Image(np.array([values], np.int16), inverted)).tolist() == [[255 - g for g in greys]]


def test_voi_lut_by_hand_where_pydicom_overflows():
    lut = Lut(first_mapped=10, bits=8, data=np.arange(300, dtype=np.uint16).clip(0, 255))
    stored = np.array([[0, 10, 11, 110, 265, 309, 65535]], np.uint16)
    assert display(Image(stored, Header(voi_luts=(lut,)))).tolist() == [[0, 0, 1, 100, 255, 255, 255]]
    lut = Lut(first_mapped=-1000, bits=12, data=np.array([0, 1000, 4095], np.uint16))
    header = Header(pixel_representation=1, bits_stored=16, voi_luts=(lut,))
    assert display(Image(np.array([[-2000, -1000, -999, -998, 32767]], np.int16), header), 16).tolist() == [
        [0, 0, round(1000 / 4095 * 65535), 65535, 65535]]


def test_no_window_shows_the_stored_range():
    pixels = np.array([[-2048, 0, 2047, 5000]], np.int16)  # 5000 exceeds the 12 bits
    header = Header(pixel_representation=1, bits_stored=12, rescale_slope=2.0, rescale_intercept=-7.0)
    assert display(Image(pixels, header)).tolist() == [[0, 128, 255, 255]]  # 2048/4095 * 255 = 127.53
    assert display(Image(pixels, replace(header, rescale_slope=-2.0))).tolist() == [[0, 128, 255, 255]]
    assert display(Image(np.array([[0, 51, 255]], np.uint8), Header())).tolist() == [[0, 51, 255]]


def test_modality_lut_goes_before_rescale():
    lut = Lut(first_mapped=0, bits=8, data=np.array([0, 50, 250], np.uint16))
    header = Header(bits_stored=8, modality_luts=(lut,), rescale_slope=3.0, rescale_intercept=1.0)
    stored = np.array([[0, 1, 2, 3]], np.uint8)
    assert display(Image(stored, header)).tolist() == [[0, 50, 250, 250]]
    windowed = replace(header, window_center=(150,), window_width=(200,), voi_lut_function="LINEAR_EXACT")  # 50 to 250
    assert display(Image(stored, windowed)).tolist() == [[0, 0, 255, 255]]


def test_nan_and_infinite_pixels_are_black_or_white():
    header = Header(window_center=(.5,), window_width=(1,), voi_lut_function="LINEAR_EXACT")
    pixels = np.array([[NAN, -np.inf, .2, np.inf]], np.float32)
    for function in ("LINEAR_EXACT", "SIGMOID"):
        grey = display(Image(pixels, replace(header, voi_lut_function=function)))
        assert grey[0, [0, 1, 3]].tolist() == [0, 0, 255]
    lut = Lut(0, 8, np.array([10, 20], np.uint16))
    assert display(Image(pixels, Header(voi_luts=(lut,)))).tolist() == [[10, 10, 10, 20]]


# Headers that cannot be taken at their word: the flag, and a sound header with the same outcome

SOUND = Header(bits_stored=12, window_center=(600.0,), window_width=(1000.0,), rescale_slope=2.0,
               rescale_intercept=-10.0, photometric_interpretation="MONOCHROME2")
NO_WINDOW, NO_RESCALE = {"window_center": (), "window_width": ()}, {"rescale_slope": None, "rescale_intercept": None}
TABLE = Lut(5, 12, np.arange(0, 4096, 3, dtype=np.uint16))


@pytest.mark.parametrize("fault, flags, same_as", [
    ({"window_width": ()}, ("window_incomplete",), NO_WINDOW),
    ({"window_center": ()}, ("window_incomplete",), NO_WINDOW),
    ({"window_width": (0.0,)}, ("window_width_not_positive",), NO_WINDOW),
    ({"window_width": (-5.0,)}, ("window_width_not_positive",), NO_WINDOW),
    ({"window_width": (0.0,), "voi_lut_function": "SIGMOID"}, ("window_width_not_positive",), NO_WINDOW),
    ({"window_width": (NAN,)}, ("window_not_a_number",), NO_WINDOW),
    ({"window_center": (float("inf"),)}, ("window_not_a_number",), NO_WINDOW),
    ({"window_center": (1.0, 600.0), "window_width": (0.0, 1000.0)}, ("window_width_not_positive",), {}),
    ({"window_center": (NAN, 600.0), "window_width": (9.0, 1000.0)}, ("window_not_a_number",), {}),
    ({"window_width": (1000.0, 3.0)}, ("window_counts_differ",), {}),
    ({"window_center": (600.0, 3.0)}, ("window_counts_differ",), {}),
    ({"window_center": (600.0, 3.0), "window_width": (1000.0, 2.0, 9.0)}, ("window_counts_differ",), {}),
    ({"window_width": (.5,)}, ("window_width_below_1",), {"window_width": (.5,), "voi_lut_function": "LINEAR_EXACT"}),
    ({"voi_lut_function": "LOG"}, ("voi_lut_function_unknown",), {}),
    ({"voi_luts": (replace(TABLE, bits=0),)}, ("lut_bits_invalid",), {}),
    ({"voi_luts": (replace(TABLE, bits=17), TABLE)}, ("lut_bits_invalid",), {"voi_luts": (TABLE,)}),
    ({"voi_luts": (replace(TABLE, data=TABLE.data[:0]),)}, ("lut_bits_invalid",), {}),
    ({"voi_luts": (replace(TABLE, bits=8),)}, ("lut_exceeds_bits",),
     {"voi_luts": (replace(TABLE, bits=8, data=TABLE.data.clip(0, 255)),)}),
    ({"modality_luts": (replace(TABLE, bits=99),)}, ("lut_bits_invalid", "rescale_beside_modality_lut"), {}),
    ({"modality_luts": (TABLE,)}, ("rescale_beside_modality_lut",), {"modality_luts": (TABLE,)} | NO_RESCALE),
    ({"rescale_intercept": None}, ("rescale_incomplete",), NO_RESCALE),
    ({"rescale_slope": None}, ("rescale_incomplete",), NO_RESCALE),
    ({"rescale_slope": 0.0}, ("rescale_not_usable",), NO_RESCALE),
    ({"rescale_slope": NAN}, ("rescale_not_usable",), NO_RESCALE),
    ({"rescale_intercept": float("-inf")}, ("rescale_not_usable",), NO_RESCALE),
    ({"rescale_slope": -2.0} | NO_WINDOW, ("negative_slope_without_voi",), NO_WINDOW),
])
def test_a_fault_has_a_flag_and_an_outcome(fault, flags, same_as):
    faulty, sound, stored = replace(SOUND, **fault), replace(SOUND, **same_as), whole_range("u2")
    assert window_flags(faulty) == flags
    np.testing.assert_array_equal(display(Image(stored, faulty)), display(Image(stored, sound)))


@pytest.mark.parametrize("sound", [
    {}, NO_WINDOW, NO_RESCALE, {"voi_luts": (TABLE,)}, {"window_width": (1.0,)}, {"rescale_slope": -2.0},
    {"window_center": (600.0, 3.0), "window_width": (1000.0, 2.0)}, {"voi_lut_function": "linear_exact"},
    {"window_width": (.5,), "voi_lut_function": "SIGMOID"}, {"modality_luts": (TABLE,)} | NO_RESCALE,
])
def test_its_healthy_neighbour_has_none(sound):
    assert window_flags(replace(SOUND, **sound)) == ()


# Asking for a window

def test_first_widest_and_index():
    header = replace(SOUND, window_center=(600.0, 700.0, 800.0), window_width=(900.0, 0.0, 1500.0))
    stored = whole_range("u2")

    def one(center, width):
        return display(Image(stored, replace(SOUND, window_center=(center,), window_width=(width,))))

    first, last = one(600, 900), one(800, 1500)
    for window, expected in (("first", first), (0, first), ("widest", last), (2, last),
                             (1, last)):  # 1 cannot be used, the next one is 2
        np.testing.assert_array_equal(display(Image(stored, header), window=window), expected)
    luts = (TABLE, replace(TABLE, data=TABLE.data[::2]), replace(TABLE, first_mapped=0, data=np.repeat(TABLE.data, 2)))
    for window, lut in (("first", luts[0]), (1, luts[1]), ("widest", luts[2])):
        np.testing.assert_array_equal(display(Image(stored, replace(header, voi_luts=luts)), window=window),
                                      display(Image(stored, replace(header, voi_luts=(lut,)))))


@pytest.mark.parametrize("window", [2, -1, "largest"])
def test_a_window_that_is_not_there(window):
    two = replace(SOUND, window_center=(1.0, 2.0), window_width=(3.0, 4.0))
    with pytest.raises(ValueError, match=r"Window Center \(0028,1050\) has 2: expected 'first', 'widest' or an index"):
        display(Image(whole_range("u1"), two), window=window)
    with pytest.raises(ValueError, match=r"VOI LUT Sequence \(0028,3010\) has 1"):
        display(Image(whole_range("u1"), replace(two, voi_luts=(TABLE,))), window=window)


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="8 or 16 bits, not 12"): display(Image(whole_range("u1"), SOUND), bits=12)
    with pytest.raises(ValueError, match="integers of 8 or 16 bits, not uint32"): lookup_table(SOUND, np.uint32)
    with pytest.raises(ValueError, match="have no range"): display(Image(np.zeros((2, 2), np.float32), Header()))


# Through cv2.LUT or np.take

@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
def test_without_16_bit_opencv_the_same_pixels(monkeypatch, dtype):
    image = Image(whole_range(dtype), replace(SOUND, pixel_representation=int(dtype[0] == "i")))
    before = image.pixels.copy()
    opencv = [display(image, bits) for bits in (8, 16)]
    monkeypatch.setattr(windowing, "_opencv_takes_16_bits", lambda: False)
    for bits, expected in zip((8, 16), opencv): np.testing.assert_array_equal(display(image, bits), expected)
    np.testing.assert_array_equal(image.pixels, before)


def test_opencv_4_is_asked_once_and_believed(monkeypatch):
    def lut(*_): raise cv2.error("16-bit input")
    windowing._opencv_takes_16_bits.cache_clear()
    monkeypatch.setattr(cv2, "LUT", lut)
    try: assert display(Image(whole_range("u2"), SOUND)).shape == (4096, 16)
    finally: windowing._opencv_takes_16_bits.cache_clear()


def test_slices_and_reversed_images_need_no_copy_first():
    stored = whole_range("u2")
    image = display(Image(stored, SOUND))
    for cut in (np.s_[::-1], np.s_[100:300, 3:9], np.s_[:, ::-2]):
        np.testing.assert_array_equal(display(Image(stored[cut], SOUND)), image[cut])
    np.testing.assert_array_equal(display(Image(stored.T, SOUND)), image.T)


# Channels

@pytest.mark.parametrize("dtype", ["u2", "i2", "f4"])
def test_channels_are_pydicoms_windows(dtype):
    stored = np.arange(0, 4096, dtype=dtype).reshape(64, 64)
    header = Header(photometric_interpretation="MONOCHROME2", bits_stored=12, pixel_representation=int(dtype == "i2"),
                    rescale_slope=1.0, rescale_intercept=-1024.0, window_center=(9.0,), window_width=(9.0,),
                    voi_lut_function="SIGMOID", voi_luts=(TABLE,))  # none of which counts here
    ds = dataset(replace(header, voi_luts=(), voi_lut_function=None))
    for bits in (8, 16):
        grey = channels(Image(stored, header), PE_WINDOWS, bits)
        assert grey.shape == (64, 64, 3) and grey.dtype == f"u{bits // 8}"
        for i, (ds.WindowCenter, ds.WindowWidth) in enumerate(PE_WINDOWS):
            assert_half_a_level(grey[..., i], *exact_grey(stored, ds, bits))


def test_channels_by_hand():
    hu = np.array([[-1351, -1350, -600, 149, 239]], np.int16)
    grey = channels(Image(hu, Header(pixel_representation=1, bits_stored=16)), PE_WINDOWS)
    # lung -1350 to 149: -600 is 750/1499 * 255 = 127.59; PE -250 to 449: 149 is 399/699 * 255 = 145.56, 239 178.39;
    # mediastinum -160 to 239: 149 is 309/399 * 255 = 197.48
    assert grey.tolist() == [[[0, 0, 0], [0, 0, 0], [128, 0, 0], [255, 146, 197], [255, 178, 255]]]


@pytest.mark.parametrize("windows", [(), [(40, 0)], [(40, .5)], [(NAN, 400)], [(40, 400), (0, -1)]])
def test_channels_refuse_what_is_no_window(windows):
    with pytest.raises(ValueError, match="each width at least 1"):
        channels(Image(np.zeros((4, 4), np.uint16), SOUND), windows)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_channels(count):
    assert channels(Image(np.zeros((4, 3), np.uint16), SOUND), [(40, 400)] * count).shape == (4, 3, count)
