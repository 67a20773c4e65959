"No more pixels than needed: the resolution pyramid, the same for every encoding, and what it costs in the picture."
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_kit import look, phantom
from mammo_kit import preprocess as module
from mammo_kit.dicom import _decode_reduced, _j2k_stream, open_bytes, read, reduce
from mammo_kit.preprocess import Settings, prepare, preprocess

imagecodecs = pytest.importorskip("imagecodecs")
LOSSLESS, J2K = phantom.JPEG_LOSSLESS, phantom.JPEG_2000


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 10, 12, 13, 14, 16]), st.integers(0, 3),
       st.sampled_from(["noise", "smooth", "edges"]), st.integers(0, 2**32 - 1))
def test_the_filter_is_that_of_the_decoder(height, width, bits, level, kind, seed):
    rng, most = np.random.default_rng(seed), 2**bits - 1
    pixels = rng.random((height, width))
    if kind == "smooth": pixels = cv2.GaussianBlur(pixels, (9, 9), 3)
    if kind == "edges": pixels = pixels > .5  # the filter overshoots, and the decoder clips
    pixels = np.rint(pixels * most).astype(np.uint8 if bits == 8 else np.uint16)
    stream = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=bits, reversible=True,
                                       resolutions=4)
    level = min(level, _j2k_stream(stream).levels)
    np.testing.assert_array_equal(reduce(pixels, level, bits), _decode_reduced(stream, bits, level))


def test_wide_and_signed_pixels_are_reduced_like_narrow_ones():
    pixels = np.random.default_rng(0).integers(0, 2**12, (51, 38)).astype(np.uint16)
    narrow = reduce(pixels, 2, 12)
    for dtype in (np.int16, np.int32, np.uint32):
        np.testing.assert_array_equal(reduce(pixels.astype(dtype), 2, 13), reduce(pixels, 2, 13))
    np.testing.assert_array_equal(reduce(pixels.astype(np.int16) - 2**11, 2, 12), narrow.astype(np.int16) - 2**11)


def files(machine, tmp_path, shape=(1664, 1280), **changes):
    "One picture as `machine` would have stored it in either encoding."
    spacing = .14 * 1664 / shape[0]
    breast = phantom.mammogram(7000 + machine, "R" if machine % 2 else "L", "MLO", "C", shape=shape,
                               pixel_spacing_mm=spacing)
    for syntax in (LOSSLESS, J2K):
        m = replace(phantom.MACHINES[machine], transfer_syntax=syntax, **changes)
        phantom.write_dicom(tmp_path / syntax, breast, m, 1, 2)
    return (tmp_path / LOSSLESS).read_bytes(), (tmp_path / J2K).read_bytes()


@pytest.mark.parametrize("size", [(512, 256), (300, 200), (1100, 700)])
@pytest.mark.parametrize("machine", [49, 29, 216, 210])
def test_the_encoding_does_not_show(machine, size, tmp_path, monkeypatch):
    lossless, j2k = (open_bytes(data) for data in files(machine, tmp_path))
    found = []  # the box: it is found in two overviews that differ a little, and may be a pixel of them off
    real = look.find_breast
    monkeypatch.setattr(look, "find_breast", lambda *args: found.append(real(*args)) or found[0])
    a, b = prepare(lossless, Settings(*size)), prepare(j2k, Settings(*size))
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert a.level == 0 and b.level == (0 if size[0] == 1100 else 1)
    assert max(abs(x - y) for x, y in zip(vars(found[0].box).values(), vars(found[1].box).values())) <= 1


@pytest.mark.parametrize("side", "LR")
def test_the_encoding_of_real_mammograms_does_not_show(data, side, monkeypatch):
    frames = [open_bytes((data / "mg" / f"1_{side}_CC_{kind}.dcm").read_bytes()) for kind in ("jll", "j2k")]
    breast = look.look(look.Pyramid(frames[0])).breast
    monkeypatch.setattr(look, "find_breast", lambda *args: breast)
    a, b = (prepare(frame, Settings()) for frame in frames)
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert (a.level, b.level) == (0, 1)


@pytest.mark.parametrize("size, level", [((1024, 512), 1), ((768, 384), 1), ((512, 256), 2), ((400, 200), 2)])
@pytest.mark.parametrize("name", ["1_L_CC_j2k.dcm", "1_R_CC_j2k.dcm"])
def test_real_mammograms_keep_40_db_of_full_resolution(data, name, size, level):
    frame = open_bytes((data / "mg" / name).read_bytes())
    fast, full = prepare(frame, Settings(*size)), prepare(frame, Settings(*size, full_resolution=True))
    assert fast.level == level and full.level == 0 and fast.box == full.box
    box, _ = fast.box, frame.read()
    grey = module.display(frame.read())[box.slices]  # full decode + area average, by hand
    height, width = module._size(box, Settings(*size))
    expected = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    top = (size[0] - height) // 2
    contents = [p.pixels[top:top + height, :width][:, ::-1 if p.mirrored else 1] for p in (fast, full)]
    np.testing.assert_array_equal(contents[1], expected)
    assert cv2.PSNR(contents[0], expected) >= 40


def test_noise_that_the_pyramid_would_alter_is_decoded_in_full(tmp_path):
    frame = open_bytes(files(49, tmp_path)[1])
    assert prepare(frame, Settings(700, 400)).level == 1
    image = frame.read()
    noise = np.random.default_rng(0).normal(0, 400, image.pixels.shape)
    noisy = np.clip(image.pixels + noise, 0, 4095).astype(np.uint16)
    levels = {level: replace(image, level=level, pixels=reduce(noisy, level, 12)) for level in range(6)}
    assert prepare(replace(frame, decoder=levels.get), Settings(700, 400)).level == 0


def test_without_a_reduced_decoder_it_is_an_error(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "can_reduce", lambda: False)
    with pytest.raises(ValueError, match="needs Pillow with JPEG 2000.*--full-resolution"):
        preprocess(competition, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    summary = preprocess(competition, tmp_path / "out", "64x32", full_resolution=True, workers=1, progress=False)
    assert summary.exit_status == 0


def test_a_stream_that_only_decodes_in_full_is_not_given_at_another_level(tmp_path, monkeypatch):
    frame = open_bytes(files(49, tmp_path, (832, 640))[1])
    monkeypatch.setattr("mammo_kit.dicom._decode_reduced", lambda *args: None)
    assert frame.read(1).level == 0
    np.testing.assert_array_equal(frame.read(1).pixels, read(tmp_path / J2K).pixels)
