"""Which changes of an image does a short training from nothing bear, how fast may it learn, and how is it pooled? The
plain script, the default recipe of today (by the mean, geometric) and its neighbours, and the one of before these
trials; on phantoms that no other table is made from.

Starting again on the same folder goes on."""
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import learning

from mammo_kit.dataset import augment
from mammo_kit.recipe import AUGMENTATIONS, Recipe

NOW, PLAIN = learning.OURS, learning.PLAIN
BEFORE = Recipe(pool="max", augmentation="moderate", positive_weight=3, learning_rate=2e-3, warmup=.2)
LINES = {  # a recipe, the plain script's settings in its place, an augmentation in place of the recipe's
    "plain": (NOW, PLAIN, None),
    "plain, maximum": (NOW, PLAIN | {"pool": "max"}, None),
    "before, none": (replace(BEFORE, augmentation="none"), None, None),
    "before, flip alone": (BEFORE, None, partial(augment, turn_deg=0, scale=0, shift=0, gain=0, gamma=0)),
    "before, geometric": (replace(BEFORE, augmentation="geometric"), None, None),
    "before, moderate": (BEFORE, None, None),
    "before, gamma .2": (BEFORE, None, partial(augment, gain=0, gamma=.2)),
    "before, gain .15, gamma .2": (BEFORE, None, partial(augment, gain=.15, gamma=.2)),
    "before, strong": (replace(BEFORE, augmentation="strong"), None, None),
    "maximum, moderate": (replace(NOW, pool="max", augmentation="moderate"), None, None),
    "maximum, geometric": (replace(NOW, pool="max"), None, None),
    "avgmax, moderate": (replace(NOW, pool="avgmax", augmentation="moderate"), None, None),
    "mean, moderate": (replace(NOW, augmentation="moderate"), None, None),
    "mean, geometric, slow start": (replace(NOW, learning_rate=2e-3, warmup=.2), None, None),
    "mean, geometric": (NOW, None, None)}


def run(folder, name, seed, epochs, recipe, theirs, function):
    "As `run` of learning.py, by this augmentation if there is one."
    with patch.dict(AUGMENTATIONS, {recipe.augmentation: function}) if function else nullcontext():
        return learning.run(folder, name, seed, epochs, recipe, theirs)


if __name__ == "__main__":
    learning.compare(__doc__, [101, 102], ["easy"], LINES, run)
