"Every rule of the header fires on its fault, whatever machine wrote it, and is silent on its healthy neighbours."
import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import real_files
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_kit.breast import find_breast
from mammo_kit.dicom import Header, Image, Lut, open_bytes, read
from mammo_kit.faults import ARTIFACTS, HEADER_FAULTS, HEALTHY, draw_artifact, healthy
from mammo_kit.header_checks import (
    HEADER_RULES,
    Rule,
    check_background,
    check_kind,
    check_picture,
    check_values,
    repaired,
)
from mammo_kit.phantom import MACHINES, dicom_dataset, stored_values
from mammo_kit.windowing import display, window_flags

TWELVE = Header(modality="MG", photometric_interpretation="MONOCHROME2", bits_allocated=16, bits_stored=12, high_bit=11,
                pixel_representation=0, pixel_padding_value=0, window_center=(2048.0,), window_width=(4096.0,))
REPAIRS = [rule.name for rule in HEADER_RULES.values() if rule.severity == "repair"]
NAN = float("nan")


def names(alarms): return [alarm.rule for alarm in alarms]


def ramp(low, high, dtype=np.uint16, shape=(200, 160)):
    "Every value from `low` to `high`, equally often."
    return np.linspace(low, high, shape[0] * shape[1]).reshape(shape).astype(dtype)


def grey_of(image): return display(image, 16).astype(np.float32) / 257


def look(image):
    "All header rules on an overview, in preprocessing's order: the alarms, and the image with its header repaired."
    alarms = check_kind(image.header) + check_values(image)
    image = replace(image, header=repaired(image, names(alarms)))
    inverted = check_background(image.header, grey_of(image))
    image = replace(image, header=repaired(image, names(inverted)))
    grey = grey_of(image)
    breast = find_breast(grey, image.header.side)
    picture = check_picture(image.header, grey, breast.mask_at(grey.shape), breast.chest_wall)
    return alarms + inverted + picture, image


def overview(frame, level):
    "A frame at a lower resolution: a band where its decoder can, else an average over blocks."
    image = frame.read(min(level, frame.levels))
    if image.level or image.pixels.dtype not in (np.uint8, np.uint16, np.int16): return image
    size = [max(1, n >> level) for n in image.pixels.shape[::-1]]
    return replace(image, pixels=cv2.resize(image.pixels, size, interpolation=cv2.INTER_AREA))


# --- the vocabulary

def test_every_rule_is_described():
    flags = {"window_incomplete", "window_counts_differ", "window_not_a_number", "window_width_not_positive",
             "window_width_below_1", "voi_lut_function_unknown", "lut_bits_invalid", "lut_exceeds_bits",
             "rescale_incomplete", "rescale_not_usable", "rescale_beside_modality_lut", "negative_slope_without_voi"}
    assert flags | set(HEADER_FAULTS) <= set(HEADER_RULES)
    for name, rule in HEADER_RULES.items():
        assert name == rule.name and rule.severity in ("note", "repair", "exclude")
        assert rule.meaning.endswith(".") and rule.action.endswith(".") and rule.unit


def test_a_rule_fires_strictly_beyond_its_threshold():
    above, below = (Rule("r", "note", "pixels", 5, "m.", "a.", below=b) for b in (False, True))
    assert [above.fires(s) for s in (4, 5, 6, NAN)] == [False, False, True, False]
    assert [below.fires(s) for s in (4, 5, 6, NAN)] == [True, False, False, False]


# --- every fault on every machine

@pytest.fixture(scope="module", params=[(m, view) for m in MACHINES for view in ("CC", "MLO")],
                ids=lambda p: f"machine {p[0]} {p[1]}")
def made(request):
    "A phantom, its machine, and a function that writes it with a fault and opens it again."
    machine_id, view = request.param
    machine, breast = MACHINES[machine_id], healthy("plain", machine_id, view, (768, 624), .293)
    stored = stored_values(breast.pixels, machine)

    def opened(fault=None, frame=None):
        ds = dicom_dataset(stored, machine, patient_id=1, image_id=1, laterality=breast.laterality, view=view,
                           pixel_spacing_mm=breast.pixel_spacing_mm)
        if fault: HEADER_FAULTS[fault](ds)
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        return open_bytes(buffer.getvalue(), frame=frame)

    expected = {"padding_missing": not machine.padding, "window_missing": not machine.voi}
    return opened, {rule for rule, there in expected.items() if there}


@pytest.mark.parametrize("level", [2, 0])
def test_a_sound_file_has_no_alarm_but_what_its_machine_leaves_out(made, level):
    opened, expected = made
    assert set(names(look(overview(opened(), level))[0])) == expected


@pytest.mark.parametrize("fault", [f for f in HEADER_FAULTS if f != "colour"])
def test_every_fault_is_found_and_nothing_else(made, fault):
    opened, expected = made
    found = set(names(look(overview(opened(fault, frame=0 if fault == "multi_frame" else None), 2))[0]))
    assert fault in found
    covered = {"window_missing"}  # a fault that sets a window is no longer without one
    if fault == "empty_range": covered |= {"laterality_disagrees", "view_disagrees"}
    assert found - covered == {fault} | (expected - covered) or fault == "window_missing" and found >= expected


@pytest.mark.parametrize("fault", REPAIRS)
@pytest.mark.parametrize("level", [2, 0])
def test_a_repaired_picture_is_the_sound_one(made, fault, level):
    opened, _ = made
    sound, faulty = overview(opened(), level), overview(opened(fault), level)
    alarms, mended = look(faulty)
    assert fault in names(alarms)
    assert not set(names(look(mended)[0])) & set(REPAIRS)
    a, b = (grey_of(image).ravel() for image in (sound, mended))
    if fault == "photometric_disagrees": assert np.array_equal(a, b)
    elif fault == "eight_bit_pixels": assert np.abs(a - b).mean() < 1
    else: assert np.corrcoef(a, b)[0, 1] > .9


def test_colour_is_told_by_the_header():
    assert names(check_kind(replace(TWELVE, photometric_interpretation="RGB", samples_per_pixel=3))) == ["colour"]
    assert names(check_kind(replace(TWELVE, photometric_interpretation="PALETTE COLOR"))) == ["colour"]
    assert check_kind(replace(TWELVE, photometric_interpretation="MONOCHROME1", samples_per_pixel=1)) == []


# --- what kind of image

@pytest.mark.parametrize(("header", "expected"), [
    (Header(), []),
    (Header(modality="MG", number_of_frames=1), []),
    (Header(modality="MG", sop_class_uid="1.2.840.10008.5.1.4.1.1.7"), []),         # secondary capture: scanned film
    (Header(modality="MG", sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1"), []),       # digital X-ray: old mammograms
    (Header(modality="MG", sop_class_uid="1.2.840.10008.5.1.4.1.1.1.2"), []),
    (Header(presentation_intent_type="FOR PRESENTATION"), []),
    (Header(modality="CT"), ["not_a_mammogram"]),
    (Header(sop_class_uid="1.2.840.10008.5.1.4.1.1.4"), ["not_a_mammogram"]),       # MR, Modality missing
    (Header(modality="MG", sop_class_uid="1.2.840.10008.5.1.4.1.1.2"), ["not_a_mammogram"]),
    (Header(modality="MG", number_of_frames=2), ["multi_frame"]),
    (Header(modality="MG", presentation_intent_type="FOR PROCESSING"), ["for_processing"]),
])
def test_kind(header, expected):
    assert names(check_kind(header)) == expected


# --- 8-bit pixels under another window

@pytest.mark.parametrize(("center", "width", "bits"), [
    (2048, 4096, 12), (2047.5, 4096, 12), (512, 1024, 10), (8192, 16384, 14), (32768, 65536, 16), (2048, 4096, 8),
    (3000, 500, 12)])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_8_bit_pixels_under_a_deeper_window(center, width, bits, function, photometric):
    header = replace(TWELVE, window_center=(float(center),), window_width=(float(width),), bits_stored=bits,
                     high_bit=bits - 1, voi_lut_function=function, photometric_interpretation=photometric)
    image = Image(ramp(0, 255), header)
    assert names(check_values(image)) == ["eight_bit_pixels"]
    mended = repaired(image, ["eight_bit_pixels"])
    assert (mended.window_center, mended.window_width, mended.voi_lut_function) == ((128.0,), (256.0,), "LINEAR")
    shown = display(replace(image, header=mended))
    assert np.array_equal(shown, image.pixels if photometric == "MONOCHROME2" else 255 - image.pixels)
    assert shown.dtype == np.uint8 and check_values(replace(image, header=mended)) == []


@pytest.mark.parametrize("header", [
    replace(TWELVE, window_center=(128.0,), window_width=(256.0,), bits_stored=8, high_bit=7, bits_allocated=8),
    replace(TWELVE, window_center=(128.0,), window_width=(256.0,)),                       # 12 bits, the window is right
    replace(TWELVE, window_center=(127.5,), window_width=(255.0,), photometric_interpretation="MONOCHROME1"),
    replace(TWELVE, window_center=(100.0,), window_width=(120.0,)),                         # narrow
    replace(TWELVE, window_center=(128.0,), window_width=(150.0,), voi_lut_function="SIGMOID"),
    replace(TWELVE, window_center=(), window_width=(), bits_stored=8, high_bit=7),
    replace(TWELVE, voi_luts=(Lut(0, 8, np.arange(256, dtype=np.uint16)),)),             # a VOI LUT goes before windows
    replace(TWELVE, rescale_slope=16.0, rescale_intercept=0.0),                             # 8 bits that mean 0 to 4080
], ids=range(8))
def test_8_bit_pixels_that_are_shown_well(header):
    assert "eight_bit_pixels" not in names(check_values(Image(ramp(0, 255, np.uint8), header)))
    assert not set(names(check_values(Image(ramp(0, 255), header)))) & set(REPAIRS)


def test_8_bit_pixels_without_a_window_in_12_bits():
    image = Image(ramp(0, 255), replace(TWELVE, window_center=(), window_width=()))
    assert names(check_values(image)) == ["eight_bit_pixels", "window_missing"]


def test_a_dark_picture_of_12_bits_is_not_taken_for_8():
    assert check_values(Image(ramp(0, 300), TWELVE)) == []
    few = ramp(0, 200)
    few[50:52, 50:52] = 300
    assert check_values(Image(few, TWELVE)) == []
    assert names(check_values(Image(np.clip(few, 0, 255), TWELVE))) == ["eight_bit_pixels"]
    assert names(check_values(Image(few, TWELVE, level=3))) == ["eight_bit_pixels"]  # a band overshoots at sharp edges


# --- windows beside the pixels

@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("center", [3500.0, -3000.0])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT"])
def test_all_black_or_white_is_shown_by_its_own_range(center, photometric, function):
    header = replace(TWELVE, window_center=(center,), window_width=(200.0,), photometric_interpretation=photometric,
                     voi_lut_function=function)
    image = Image(ramp(400, 1400), header)
    assert len(np.unique(display(image))) == 1
    assert names(check_values(image)) == ["window_outside_range"]
    mended = replace(image, header=repaired(image, ["window_outside_range"]))
    assert check_values(mended) == []
    assert len(np.unique(display(mended))) > 170
    assert mended.header.photometric_interpretation == photometric


@pytest.mark.parametrize("other", [
    {"window_center": (900.0,), "window_width": (120.0,)},                                     # narrow, and sensible
    {"window_center": (900.0,), "window_width": (100.0,), "voi_lut_function": "SIGMOID"},
    {"window_center": (3500.0,), "window_width": (200.0,), "voi_luts": (Lut(0, 12, np.arange(4096, dtype=np.uint16)),)},
    {"window_center": (0.0,), "window_width": (2000.0,), "rescale_slope": 2.0, "rescale_intercept": -1800.0},
    {"window_center": (900.0,), "window_width": (1000.0,), "photometric_interpretation": "MONOCHROME1"},
], ids=["narrow", "sigmoid", "VOI LUT", "rescale", "MONOCHROME1"])
def test_windows_that_show_the_pixels(other):
    assert check_values(Image(ramp(400, 1400), replace(TWELVE, **other))) == []


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, -1800.0), (-1.0, 4095.0), (5e-6, 0.0)])
def test_the_own_range_is_one_of_modality_values(slope, intercept):
    header = replace(TWELVE, window_center=(1e6,), window_width=(10.0,), rescale_slope=slope,
                     rescale_intercept=intercept)
    image = Image(ramp(400, 1400), header)
    assert names(check_values(image)) == ["window_outside_range"]
    mended = replace(image, header=repaired(image, ["window_outside_range"]))
    assert check_values(mended) == [] and len(np.unique(display(mended))) > 170


def test_the_own_range_by_hand():
    halves = np.repeat([[500], [900]], 100, axis=0).astype(np.uint16).repeat(160, axis=1)
    image = Image(halves, replace(TWELVE, window_center=(3000.0,), window_width=(400.0,)))
    mended = repaired(image, ["window_outside_range"])
    # An eighth more at the bright end: 500 to 950; 450 / 16 = 28.1, rounded up to the power of two 32: 480 to 960.
    assert (mended.window_center, mended.window_width) == ((720.0,), (480.0,))
    inverted = replace(image, header=replace(image.header, photometric_interpretation="MONOCHROME1"))
    low = repaired(inverted, ["window_outside_range"])  # 450 to 900: 448 to 928
    assert (low.window_center, low.window_width) == ((688.0,), (480.0,))
    assert mended.voi_lut_function == "LINEAR_EXACT" and mended.voi_luts == ()


def test_padding_is_no_pixel():
    pixels = ramp(500, 900, np.int16)
    pixels[:, 60:] = -2000
    header = replace(TWELVE, pixel_representation=1, pixel_padding_value=-2000, window_center=(3000.0,),
                     window_width=(400.0,))
    mended = repaired(Image(pixels, header), ["window_outside_range"])
    center, width = mended.window_center[0], mended.window_width[0]
    assert 416 <= center - width / 2 <= 500 and 900 <= center + width / 2 <= 992
    pixels[:, :60] = 5
    assert names(check_values(Image(pixels, header))) == ["empty_range"]


@pytest.mark.parametrize("side", "LR")
def test_two_encodings_get_much_the_same_window(data, side):
    "At any resolution, although their brightest thousandth differs by more than a tenth."
    ends = []
    for file, level in (("j2k", 4), ("j2k", 3), ("jll", 4), ("jll", 3)):
        image = overview(open_bytes((data / "mg" / f"1_{side}_CC_{file}.dcm").read_bytes()), level)
        image = replace(image, header=replace(image.header, window_center=(9000.0,), window_width=(100.0,)))
        assert names(check_values(image)) == ["window_outside_range", "padding_missing"]
        own = repaired(image, ["window_outside_range"])
        ends.append([own.window_center[0] + sign * own.window_width[0] / 2 for sign in (-1, 1)])
    low, high = np.ptp(ends, axis=0)
    assert low <= 512 and high <= 512, ends


def test_unknown_and_other_rules_change_nothing():
    image = Image(ramp(0, 255), TWELVE)
    assert repaired(image, ["padding_missing", "blank"]) == TWELVE
    flat = Image(np.full((64, 64), 7, np.uint16), TWELVE)
    assert repaired(flat, ["window_outside_range"]).window_center == TWELVE.window_center


# --- empty pictures

def test_empty_and_nearly_empty():
    dot = np.zeros((200, 160), np.uint16)
    assert names(check_values(Image(dot, TWELVE))) == ["empty_range"]
    no_padding = replace(TWELVE, pixel_padding_value=None)
    assert names(check_values(Image(dot, no_padding))) == ["empty_range", "padding_missing"]
    dot[3:9, 3:13] = 4095  # a label, .2 %
    assert names(check_values(Image(dot, replace(TWELVE, pixel_padding_value=1)))) == ["empty_range"]
    assert names(check_values(Image(ramp(1000, 1003), TWELVE))) == ["empty_range"]


def test_a_small_breast_is_not_empty():
    small = np.zeros((200, 160), np.uint16)
    small[80:104, :20] = ramp(800, 3000, shape=(24, 20))  # 1.5 % of the picture
    assert check_values(Image(small, replace(TWELVE, pixel_padding_value=5000))) == []
    assert check_values(Image(ramp(0, 40), replace(TWELVE, window_center=(20.0,), window_width=(40.0,)))) == []


# --- what the header alone tells

@pytest.mark.parametrize(("other", "expected"), [
    ({}, []),
    ({"high_bit": 15}, ["bits_disagree"]),
    ({"high_bit": None}, []),
    ({"bits_stored": 12, "high_bit": 11, "bits_allocated": 8}, ["bits_disagree"]),
    ({"window_center": (2048.0,) * 2, "window_width": (4096.0,) * 2}, ["window_duplicate"]),
    ({"window_center": (2048.0,), "window_width": (4096.0, 4096.0)}, ["window_counts_differ", "window_duplicate"]),
    ({"window_center": (2048.0, 2048.0), "window_width": (4096.0, 3000.0)}, []),  # one center, two windows
    ({"window_center": (), "window_width": ()}, ["window_missing"]),
    ({"window_center": ()}, ["window_incomplete"]),
    ({"window_center": (), "window_width": (), "voi_luts": (Lut(0, 12, np.arange(4096, dtype=np.uint16)),)}, []),
    ({"pixel_padding_value": None}, ["padding_missing"]),
    ({"window_center": (NAN, 2048.0), "window_width": (100.0, 4096.0)}, ["window_not_a_number"]),
])
def test_header_alone(other, expected):
    assert names(check_values(Image(ramp(0, 4095), replace(TWELVE, **other)))) == expected


def test_the_readers_flag_is_an_alarm():
    assert names(check_values(Image(ramp(0, 8000), TWELVE, ("exceeds_bits_stored",)))) == ["exceeds_bits_stored"]


numbers = st.floats(-1e5, 1e5) | st.sampled_from([0.0, NAN, float("inf"), .5])


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_header_and_any_pixels(draw):
    dtype = draw.draw(st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32]))
    low, high = sorted(draw.draw(st.tuples(st.integers(0, 127), st.integers(0, 127))))
    shape = draw.draw(st.sampled_from([(1, 1), (3, 50), (64, 40)]))
    several = st.lists(numbers, max_size=3).map(tuple)
    header = replace(
        TWELVE, window_center=draw.draw(several), window_width=draw.draw(several),
        high_bit=draw.draw(st.integers(0, 31)), bits_stored=draw.draw(st.sampled_from([None, 1, 8, 12, 16])),
        rescale_slope=draw.draw(st.none() | numbers), rescale_intercept=draw.draw(st.none() | numbers),
        pixel_padding_value=draw.draw(st.none() | st.integers(0, 127)),
        pixel_representation=int(np.dtype(dtype).kind == "i"), voi_lut_function=draw.draw(
            st.sampled_from([None, "LINEAR", "SIGMOID", "LINEAR_EXACT", "?"])))
    image = Image(ramp(low, high, dtype, shape), header)
    alarms = check_values(image)
    assert set(window_flags(header)) <= set(names(alarms)) and len(set(names(alarms))) == len(alarms)
    assert all(HEADER_RULES[a.rule].fires(a.score) and a.reason.endswith((".", ".]")) for a in alarms)
    if found := [a.rule for a in alarms if a.rule in REPAIRS]:
        mended = replace(image, header=repaired(image, found))
        assert not [a for a in check_values(mended) if a.rule == "eight_bit_pixels"]


# --- bright air

@pytest.fixture(scope="module")
def greys():
    "(name, healthy or artifact, overview) of phantoms."
    drawn = []
    for seed in range(3):
        for kind in HEALTHY:
            picture = healthy(kind, 900 + seed, shape=(512, 416), pixel_spacing_mm=.44)
            drawn.append((kind, picture))
            if kind in ("plain", "dense_breast"):
                drawn += [(rule, draw_artifact(picture, rule, seed / 2, seed)[0]) for rule in ARTIFACTS]
    return [(name, cv2.resize(p.pixels * 255, None, fx=.5, fy=.5, interpolation=cv2.INTER_AREA)) for name, p in drawn]


def test_no_sound_picture_is_called_inverted(greys):
    assert [name for name, grey in greys if check_background(TWELVE, grey)] == []


def test_inverted_pictures_are_found(greys):
    missed = [name for name, grey in greys if not check_background(TWELVE, 255 - grey)]
    # Neither a blank picture nor one without air has a bright background; a film's edge may be as dark as tissue.
    assert set(missed) <= {"blank", "overcropped", "film_edge", "implant"} and missed.count("film_edge") <= 1


@pytest.mark.parametrize("grey", [
    np.zeros((200, 160)), np.full((200, 160), 255), np.full((200, 160), 100), np.full((20, 16), 255),
    np.random.default_rng(0).uniform(0, 255, (200, 160)), ramp(0, 255, float), ramp(0, 255, float)[::-1],
    ramp(100, 103, float)], ids=["black", "white", "grey", "tiny", "noise", "ramp down", "ramp up", "faint ramp"])
def test_pictures_of_nothing_are_not_judged(grey):
    assert check_background(TWELVE, grey.astype(np.float32)) == []


def test_bright_air_is_right_in_other_images(greys):
    assert check_background(replace(TWELVE, modality="CR"), 255 - greys[0][1]) == []


# --- laterality and view

@pytest.mark.parametrize("kind", HEALTHY)
@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_laterality_and_view_of_phantoms(kind, view):
    found = []
    for seed in range(2):
        p = healthy(kind, 950 + seed, view, shape=(512, 416), pixel_spacing_mm=.44)
        grey = cv2.resize(p.pixels * 255, None, fx=.5, fy=.5, interpolation=cv2.INTER_AREA)
        breast = find_breast(grey)
        mask, other = breast.mask_at(grey.shape), {"L": "R", "R": "L", "CC": "MLO", "MLO": "CC"}
        right = replace(TWELVE, image_laterality=p.laterality, view_position=view)
        wrong = replace(TWELVE, image_laterality=other[p.laterality], view_position=other[view])
        assert check_picture(right, grey, mask, breast.chest_wall) == []
        assert check_picture(replace(TWELVE), grey, mask, breast.chest_wall) == []
        found += names(check_picture(wrong, grey, mask, breast.chest_wall))
        for unjudged in ("ML", "LM", "LMO", "XCCL", "AT", None):
            h = replace(right, view_position=unjudged)
            assert check_picture(h, grey, mask, breast.chest_wall) == []
    assert found.count("laterality_disagrees") == 2 and set(found) <= {"laterality_disagrees", "view_disagrees"}


def test_a_picture_without_a_breast_is_not_judged():
    header = replace(TWELVE, image_laterality="L", view_position="CC")
    for mask in (np.ones((100, 80), bool), np.zeros((100, 80), bool)):
        for side in ("left", "right"): assert check_picture(header, np.zeros((100, 80), np.float32), mask, side) == []
    with pytest.raises(ValueError, match="expected that of the grey picture"):
        check_picture(header, np.zeros((100, 80), np.float32), np.zeros((50, 40), bool), "left")


# --- real mammograms

@pytest.fixture(scope="module")
def mias(data):
    "(name, alarms, image) of the 242 film mammograms, looked at in a small copy."
    files = sorted((data / "mias" / "train_images").glob("*/*.dcm"))
    return [(f.stem, *look(overview(open_bytes(f.read_bytes()), 2))) for f in files]


def test_alarms_on_film(mias):
    "13 of the headers, those of 8-bit pixels, were made to be wrong; none of the pictures was."
    rules = {name: set(names(alarms)) for name, alarms, _ in mias}
    assert len(rules) == 242 and all("padding_missing" in found for found in rules.values())
    eight = {name for name, _, image in mias if image.pixels.max() < 256}
    assert {name for name, found in rules.items() if found != {"padding_missing"}} == eight and len(eight) == 13
    assert all(rules[name] == {"padding_missing", "eight_bit_pixels"} for name in eight)


def test_film_with_wrong_labels(mias):
    other, found = {"L": "R", "R": "L"}, []
    for _, _, image in mias:
        grey, h = grey_of(image), image.header
        breast = find_breast(grey)
        wrong = replace(h, image_laterality=other[h.side], laterality=None, view_position="CC")
        found += names(check_picture(wrong, grey, breast.mask_at(grey.shape), breast.chest_wall))
        found += names(check_background(h, 255 - grey))
    assert found.count("laterality_disagrees") == 242
    assert found.count("photometric_disagrees") >= 238
    assert found.count("view_disagrees") >= 194  # .8: only the sure ones are told


def test_a_cc_that_is_cut_off_is_no_mlo(data):
    rng = np.random.default_rng(1)
    for side in "LR":
        grey = grey_of(overview(open_bytes((data / "mg" / f"1_{side}_CC_jll.dcm").read_bytes()), 4))
        header = replace(TWELVE, image_laterality=side, view_position="CC")
        for top, bottom in rng.uniform(0, .3, (60, 2)) * len(grey):
            cut = np.ascontiguousarray(grey[int(top):len(grey) - int(bottom)])
            breast = find_breast(cut)
            assert check_picture(header, cut, breast.mask_at(cut.shape), breast.chest_wall) == []


# What is told of files that are no plain mammograms, beside `not_a_mammogram` and `padding_missing`.
TOLD = {
    "jpeg2k_3d.dcm": {"multi_frame", "window_missing"},
    # A scintigram, black in 16 bits: 99.5 % of its pixels are below 257.
    "dicom-test-files-pydicom--JPEG-LL.dcm": {"window_missing", "window_outside_range"},
    "fo-dicom--GH1261.dcm": {"empty_range", "window_width_not_positive"},
    "fo-dicom--GH342.dcm": {"window_duplicate"}, "fo-dicom--IM-0001-0001-0001.dcm": {"window_duplicate"},
    "pydicom--J2K_pixelrep_mismatch.dcm": {"window_duplicate"},
    "fo-dicom--RI6XDosiGap.dcm": {"window_width_below_1"},
    "weasis-dicom-tools--overlay.dcm": {"exceeds_bits_stored", "window_missing"},
}


@pytest.mark.parametrize("file", real_files("mg", "conformance"))
def test_alarms_on_public_files(file):
    try: frame = open_bytes(file.read_bytes(), frame=0 if file.name == "jpeg2k_3d.dcm" else None)
    except ValueError: pytest.skip("the reader refuses this file")
    try: image = frame.read()
    except ValueError: pytest.skip("the reader refuses the pixels of this file")
    header, found = image.header, set(names(look(image)[0])) - {"padding_missing"}
    kind = {"not_a_mammogram"} if header.modality not in (None, "MG") else set()
    no_voi = not (header.window_center or header.window_width or header.voi_luts)
    assert found == TOLD.get(file.name, {"window_missing"} if no_voi else set()) | kind


def test_the_voi_lut_goes_before_windows(data):
    "GH133 has three windows and three look-up tables; a window that is beside the pixels changes nothing."
    image = read(data / "mg" / "GH133.dcm")
    assert check_values(image) == []
    beside = replace(image.header, window_center=(60000.0,), window_width=(10.0,))
    assert check_values(replace(image, header=beside)) == []
    no_lut = replace(image, header=replace(beside, voi_luts=(), voi_lut_function="LINEAR"))
    assert names(check_values(no_lut)) == ["window_outside_range"]
