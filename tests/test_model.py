"What looks at a breast: any backbone, single images or several together, and the weights that others have learnt."
import json
import re

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from mammo_kit.model import MammogramModel, ViewPool, load_model, load_pretrained, save_model

pytestmark = pytest.mark.usefixtures("one_thread")

# A backbone of each family; those of them that are made for one size of images must be told it.
FAMILIES = ["test_convnext", "convnext_atto", "efficientnet_b0", "regnetx_002", "resnet10t", "test_vit",
            "vit_tiny_patch16_224", "maxvit_pico_rw_256", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, 1, 64, 32)


def state(model) -> dict:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_looks_at_tall_images_and_at_breasts_and_takes_weights_of_photographs(backbone, tmp_path):
    "A breast of one image is that image; grey photographs give the features that the other network gives."
    pool = "token" if backbone.startswith(("test_vit", "vit")) else "avg"
    one = MammogramModel(backbone, pool, shape=(64, 32)).eval()
    assert one.backbone.pretrained_cfg["architecture"] == backbone
    size = {"img_size": (64, 32)} if timm.get_pretrained_cfg(backbone).fixed_input_size else {}
    theirs = timm.create_model(backbone, num_classes=7, global_pool=pool, **size).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    left_out = load_pretrained(one, tmp_path / "w.safetensors")
    assert len(left_out) == 2 and {n.rsplit(".", 1)[1] for n in left_out} == {"weight", "bias"}
    several = MammogramModel(backbone, pool, shape=(64, 32), views="attention").eval()
    several.backbone.load_state_dict(one.backbone.state_dict())
    x = pictures(2)
    with torch.inference_mode():
        assert one(x).shape == (2,)
        torch.testing.assert_close(several(x[:, None]), one(x))
        grey = theirs.forward_features(((x - one.mean) / one.std).expand(-1, 3, -1, -1))
        torch.testing.assert_close(one.backbone.forward_features((x - one.mean) / one.std), grey, atol=1e-3, rtol=1e-3)


def test_the_backbones_of_the_winners_can_be_had():
    "The first place's, with what it was trained with."
    model = MammogramModel("convnext_small", "max", drop_path=.2, shape=(2048, 1024), views="max",
                           outputs=("cancer", "biopsy", "density_A"))
    assert model.backbone.stem[0].weight.shape[1] == 1
    assert model.backbone.stages[-1].blocks[-1].drop_path.drop_prob == pytest.approx(.2)
    assert model.backbone.get_classifier().out_features == 3


@pytest.mark.parametrize("kind", ViewPool.KINDS)
@pytest.mark.parametrize("backbone", ["regnetx_002", "test_convnext"])
def test_what_is_masked_has_no_influence(kind, backbone):
    "Neither on logits, nor gradients, nor the statistics of batch normalisation, though it be not a number."
    model = MammogramModel(backbone, views=kind, outputs=("cancer", "biopsy")).train()
    mask = torch.tensor([[True, True, False], [False, True, False], [True, True, True]])
    x, start, came = pictures(3, 3), state(model), []
    for filling in (0, .5, torch.nan, torch.inf):
        model.load_state_dict(start)
        x[~mask] = filling
        model.zero_grad()
        logits = model(x, mask)
        logits.square().sum().backward()
        came.append({"logits": logits.detach(), **{k: p.grad.clone() for k, p in model.named_parameters()},
                     **{f"after {k}": v for k, v in state(model).items()}})
    assert logits.shape == (3, 2)
    assert all(v.isfinite().all() for v in came[0].values())
    assert all(same(came[0], other) for other in came[1:])
    model.eval()
    with torch.inference_mode():
        alone = model(x[1:2, 1:2])
        torch.testing.assert_close(model(x, mask)[1:2], alone)
        x[1, 1] = 1 - x[1, 1]
        assert not torch.allclose(model(x, mask)[1:2], alone)  # what is not masked has


@pytest.mark.parametrize(("dtype", "top"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_stored_integers_are_the_greys_that_numpy_makes_of_them(dtype, top):
    stored = np.random.default_rng(0).integers(0, top, (2, 3, 1, 64, 32), endpoint=True).astype(str(dtype)[6:])
    greys = torch.from_numpy(np.divide(stored, top, dtype=np.float32))
    stored, mask = torch.from_numpy(stored), torch.tensor([[True, False, True], [False, True, False]])
    assert stored.dtype == dtype
    one, several = MammogramModel("test_convnext").eval(), MammogramModel("test_convnext", views="gem").eval()
    with torch.inference_mode():
        assert one(stored[:, 0]).equal(one(greys[:, 0]))
        assert several(stored, mask).equal(several(greys, mask)) and several(stored).equal(several(greys))


def test_uint16_meets_only_what_cuda_has_for_it():
    "CUDA converts and reinterprets uint16, but says 'index_cuda not implemented for UInt16'."
    met = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if any(isinstance(a, torch.Tensor) and a.dtype == torch.uint16 for a in args): met.add(function.name())
            return function(*args, **kwargs or {})
    model = MammogramModel("test_convnext", views="max")
    x, mask = torch.ones(2, 2, 1, 64, 32).to(torch.uint16), torch.tensor([[True, False], [True, True]])
    with torch.no_grad(), Watch(): model(x, mask)
    assert met <= {"aten::view.dtype", "aten::_to_copy", "aten::detach"}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.bool])
def test_integers_of_another_kind_are_refused(dtype):
    for model in (MammogramModel("test_convnext"), MammogramModel("test_convnext", views="max")):
        x = torch.ones(2, 1, 64, 32, dtype=dtype)
        with pytest.raises(ValueError, match=f"images of {dtype}: expected uint8, uint16, or float"):
            model(x[:, None] if model.views else x)


@pytest.mark.parametrize("kind", ViewPool.KINDS)
def test_half_precision_comes_to_nearly_the_same(kind):
    model, x = MammogramModel("resnet10t", views=kind).eval(), pictures(2, 2)
    mask = torch.tensor([[True, True], [True, False]])
    exact = model(x, mask)
    with torch.autocast("cpu", torch.bfloat16): logits = model(x, mask)
    logits.float().sum().backward()
    torch.testing.assert_close(logits.float(), exact, atol=.05, rtol=.05)


@pytest.mark.parametrize("kind", ViewPool.KINDS)
def test_views_are_put_together_in_any_order_and_the_same_view_twice_says_nothing_new(kind):
    pool, mask = ViewPool(kind, 5), torch.tensor([[True, False, True, True]])
    features = torch.rand(1, 4, 5)
    order = torch.tensor([3, 0, 2, 1])
    torch.testing.assert_close(pool(features[:, order], mask[:, order]), pool(features, mask))
    torch.testing.assert_close(pool(features[:, [0, 0, 0, 0]], mask), features[:, 0])
    assert (pool(features, mask) <= features[mask].amax(0) + 1e-6).all()
    assert (pool(features, mask) >= features[mask].amin(0) - 1e-6).all()


def test_view_pools_by_hand():
    features = torch.tensor([[[1., 4.], [3., 0.], [9., 9.]]])
    mask = torch.tensor([[True, True, False]])
    assert ViewPool("mean", 2)(features, mask).tolist() == [[2, 2]]
    assert ViewPool("max", 2)(features, mask).tolist() == [[3, 4]]
    gem = ViewPool("gem", 2)
    torch.testing.assert_close(gem(features, mask), torch.tensor([[14 ** (1 / 3), 32 ** (1 / 3)]]))
    for p, expected in ((1., [2., 2.]), (500., [3., 4.]), (-1., [14 ** (1 / 3), 32 ** (1 / 3)])):  # mean to maximum
        gem.p.data.fill_(p)
        torch.testing.assert_close(gem(features, mask), torch.tensor([expected]), rtol=2e-3, atol=0)
        gem(features * 1e4, mask).sum().backward()
        assert gem.p.grad.isfinite() and (gem.p.grad != 0 or p == 1)
    attention = ViewPool("attention", 2)
    for layer in (attention.content, attention.gate, attention.score):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert attention(features, mask).tolist() == [[2, 2]]  # knowing nothing, it is the mean
    attention.content.weight.data[0] = -100.
    attention.content.bias.data[0] = 400.  # tanh(400 − 500) = −1 for the first image, tanh(400 − 300) = 1 for the other
    attention.gate.bias.data[0] = 100.     # open
    attention.score.weight.data[0, 0] = 1.
    scores = torch.tensor([-1., 1., -torch.inf])
    torch.testing.assert_close(attention.weights(features, mask)[0], scores.exp() / scores.exp().sum())


@pytest.mark.parametrize(("options", "message"), [
    ({"views": "median"}, "views 'median': expected None or one of mean, max, gem, attention"),
    ({"views": ""}, "views ''"), ({"outputs": ()}, "expected one name or more"),
    ({"outputs": ("cancer", "cancer")}, "each only once"), ({"pool": "foo"}, "pool 'foo' cannot be made: .*Invalid"),
    ({"backbone": "vgg11", "drop_path": .1}, "'vgg11' .*drop_path_rate 0.1 cannot be made"),
    ({"backbone": "levit_128s", "views": "max"}, "expected one that ends in a linear layer")])
def test_models_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MammogramModel(**{"backbone": "test_convnext"} | options)


@pytest.mark.parametrize(("views", "x", "mask", "message"), [
    (None, (2, 3), None, r"\(2, 3, 1, 64, 32\): expected \(B, 1, H, W\)"),
    ("max", (2,), None, r"expected \(B, N, 1, H, W\)"), (None, (2,), torch.ones(2, 1).bool(), "a mask, but views None"),
    ("max", (2, 2), torch.tensor([[True, True], [False, False]]), "an image in each breast"),
    ("max", (2, 2), torch.ones(2, 3).bool(), r"mask \(2, 3\)"), ("max", (2, 2), torch.ones(2, 2), "torch.float32")])
def test_images_that_the_model_is_not_for_are_refused(views, x, mask, message):
    with pytest.raises(ValueError, match=message):
        MammogramModel("test_convnext", views=views)(pictures(*x), mask)


@pytest.mark.parametrize("options", [
    {}, {"views": "attention", "outputs": ("cancer", "biopsy")}, {"views": "gem", "drop_path": .1, "drop": .2},
    {"backbone": "test_vit", "shape": (64, 32), "pool": "max", "views": "max"}])
def test_a_saved_model_comes_back_whole(options, tmp_path):
    model = MammogramModel(**{"backbone": "test_convnext", "mean": .3, "std": .1} | options).eval()
    save_model(tmp_path / "m.safetensors", model, {"recipe": {"backbone": "x", "pool": "y"}, "settings": {}})
    again, record = load_model(tmp_path / "m.safetensors")
    assert same(state(again), state(model))
    assert again.outputs == model.outputs and again.options == model.options == record["model"]
    x = pictures(2, 3) if model.views else pictures(2)
    with torch.inference_mode(): assert torch.equal(again(x), model(x))


def test_a_file_from_before_loads_unchanged(tmp_path):
    "Its record has a recipe with backbone and pool, and no word about the rest."
    model = MammogramModel("test_convnext", "max").eval()
    record = {"recipe": {"backbone": "test_convnext", "pool": "max", "drop": 0.0}, "settings": {}}
    save_file(state(model), tmp_path / "old.safetensors", {"mammo_kit": json.dumps(record)})
    again, found = load_model(tmp_path / "old.safetensors")
    assert found == record and again.views is None and again.outputs == ("cancer",)
    assert [k for k in again.state_dict() if not k.startswith("backbone.")] == ["mean", "std"]
    with torch.inference_mode(): assert torch.equal(again(x := pictures(2)), model(x))


# Pretrained weights.

@pytest.fixture(scope="module")
def photographs() -> dict:
    "The weights of a network for photographs, of a thousand kinds."
    torch.manual_seed(1)
    return timm.create_model("test_convnext").state_dict()


def first_layout(weights: dict) -> dict:
    "The names that ConvNeXt's authors gave: https://github.com/facebookresearch/ConvNeXt."
    def name(k):
        k = re.sub(r"^stem\.", "downsample_layers.0.", k)
        k = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", k)
        k = re.sub(r"^stages\.(\d)\.blocks\.", r"stages.\1.", k)
        for ours, theirs in (("conv_dw", "dwconv"), ("mlp.fc", "pwconv"), ("head.norm", "norm"), ("head.fc", "head")):
            k = k.replace(ours, theirs)
        return k
    return {name(k): v for k, v in weights.items()}


DRESSES = {
    "bare": lambda w: w, "state_dict": lambda w: {"epoch": 3, "state_dict": w, "optimizer": {"lr": .1}},
    "model": lambda w: {"model": w}, "EMA": lambda w: {"state_dict": {k: v * 0 for k, v in w.items()},
                                                      "state_dict_ema": w},
    "module": lambda w: {f"module.{k}": v for k, v in w.items()},
    "compiled": lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
    "model.backbone": lambda w: {"state_dict": {f"model.backbone.{k}": v for k, v in w.items()}},
    "encoder": lambda w: {f"encoder.{k}": v for k, v in w.items() if "head.fc" not in k} | {"fc.weight": torch.ones(2)},
    "the authors'": first_layout, "half": lambda w: {k: v.half() for k, v in w.items()}}


@pytest.mark.parametrize("dress", DRESSES)
def test_weights_are_taken_in_any_dress(dress, photographs, tmp_path):
    torch.save(DRESSES[dress](photographs), tmp_path / "w.pth")
    model = MammogramModel("test_convnext", mean=.3)
    fc = model.backbone.head.fc.weight.clone()
    left_out = load_pretrained(model, tmp_path / "w.pth")
    assert left_out == ["fc.weight"] * (dress == "encoder") + ["head.fc.bias", "head.fc.weight"]
    came = model.backbone.state_dict()
    assert torch.equal(came.pop("head.fc.weight"), fc) and model.mean == .3
    close = {"atol": 2e-3, "rtol": 0} if dress == "half" else {}
    torch.testing.assert_close(came.pop("stem.0.weight"), photographs["stem.0.weight"].sum(1, keepdim=True), **close)
    for k in came.keys() - {"head.fc.bias"}: torch.testing.assert_close(came[k], photographs[k], **close)


def test_a_classifier_of_the_same_shape_comes_too(photographs, tmp_path):
    torch.save(photographs, tmp_path / "w.pt")
    model = MammogramModel("test_convnext", outputs=tuple(map(str, range(1000))))
    assert load_pretrained(model, tmp_path / "w.pt") == []
    assert torch.equal(model.backbone.head.fc.weight, photographs["head.fc.weight"])


@pytest.mark.parametrize(("outputs", "classifier"), [
    (("cancer",), []), (("cancer", "biopsy"), ["head.fc.bias", "head.fc.weight"])])
def test_a_model_of_ours_gives_its_backbone(outputs, classifier, tmp_path):
    "From single images to breasts, and the other way; its classifier too, if it has as many outputs."
    for source, sink in (({}, {"views": "gem", "outputs": outputs}), ({"views": "gem", "outputs": outputs}, {})):
        model, other = MammogramModel("test_convnext", mean=.1, **source), MammogramModel("test_convnext", **sink)
        save_model(tmp_path / "m.safetensors", model, {"recipe": {}, "settings": {}})
        left_out = load_pretrained(other, tmp_path / "m.safetensors")
        assert sorted(left_out) == classifier + ["mean", "std"] + ["views.p"] * ("views" in source)
        ours, theirs = state(other.backbone), state(model.backbone)
        for name in classifier: del ours[name], theirs[name]
        assert same(ours, theirs) and other.mean == .5


def test_positions_are_stretched_to_another_size_of_images(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    model = MammogramModel("test_vit", "token", shape=(64, 32))
    load_pretrained(model, tmp_path / "w.pth")
    assert model.backbone.pos_embed.shape[1] - model.backbone.num_prefix_tokens == 4 * 2


def changed(**changes):
    return lambda w: {k: v for k, v in (w | changes).items() if v is not None}


MISFITS = {
    "another of the family": (lambda w: timm.create_model("test_convnext2").state_dict(),
                              ["missing", r"another shape: stem.0.weight \(32, 3, 4, 4\) there, \(24, 1, 4, 4\) here",
                               "seem to be weights of test_convnext2"]),
    "another family": (lambda w: timm.create_model("resnet18").state_dict(),
                       ["missing: stem.0.weight", "too much: conv1.weight", "seem to be weights of resnet18"]),
    "one missing": (changed(**{"stem.1.bias": None}), ["1 missing: stem.1.bias", "of this backbone"]),
    "one too much": (changed(**{"stages.0.blocks.9.gamma": torch.ones(24)}),
                     ["1 too much: stages.0.blocks.9.gamma", "of this backbone"]),
    "one of another shape": (changed(**{"stem.1.bias": torch.ones(5)}),
                             [r"1 of another shape: stem.1.bias \(5,\) there, \(24,\) here"]),
    "four channels": (changed(**{"stem.0.weight": torch.ones(24, 4, 4, 4)}), [r"\(24, 4, 4, 4\) there"]),
    "no network": (lambda w: {"a.weight": torch.ones(3)}, ["too much: a.weight", "no backbone that we know"]),
    "not a number": (changed(**{"stem.1.bias": torch.full((24,), torch.nan)}), ["damaged: stem.1.bias not finite"]),
    "no weights": (lambda w: {"epoch": 3, "loss": .1}, ["expected weights by their names", "found epoch, loss"]),
    "a list": (lambda w: [1, 2], ["damaged, or holds more than weights"]),
    "code": (lambda w: timm.create_model("test_convnext"), ["damaged, or holds more than weights: [Ww]eights.only"])}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused_in_words_and_change_nothing(misfit, photographs, tmp_path):
    make, said = MISFITS[misfit]
    torch.save(make(photographs), tmp_path / "w.pth")
    model = MammogramModel("test_convnext")
    before = state(model)
    with pytest.raises(ValueError, match="w.pth") as told:
        load_pretrained(model, tmp_path / "w.pth")
    for words in said: assert re.search(words, str(told.value)), str(told.value)
    assert "\n" not in str(told.value)
    assert same(state(model), before)


def test_a_deeper_network_does_not_pass_for_a_shallower_one(tmp_path):
    "All weights of resnet18 stand in resnet34 with the same shapes."
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "resnet34.a1_in1k.pth")
    with pytest.raises(ValueError, match="too much: layer1.2.*seem to be weights of resnet34"):
        load_pretrained(MammogramModel("resnet18"), tmp_path / "resnet34.a1_in1k.pth")


def test_weights_for_another_pool_are_told_from_others(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="missing: fc_norm.*of this backbone.* another pool than 'avg' .*'token'"):
        load_pretrained(MammogramModel("test_vit", "avg", shape=(64, 32)), tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("damage", ["empty", "half", "all but one", "text", "flipped"])
def test_damaged_weights_are_refused(damage, suffix, photographs, tmp_path):
    file = tmp_path / f"w.{suffix}"
    if suffix == "pth": torch.save(photographs, file)
    else: save_file(photographs, file)
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes({"empty": b"", "half": data[:middle], "all but one": data[:-1], "text": b"hello, I am no network",
                      "flipped": data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1:]}[damage])
    if (damage, suffix) == ("flipped", "safetensors"): pytest.skip("safetensors keeps no checksums")
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load_pretrained(MammogramModel("test_convnext"), file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.pth: expected a file of weights.*found none"):
        load_pretrained(model := MammogramModel("test_convnext"), tmp_path / "nowhere.pth")
    (tmp_path / "a.pth").touch()
    with pytest.raises(ValueError, match="not a folder; there are a.pth in it"):
        load_pretrained(model, tmp_path)
