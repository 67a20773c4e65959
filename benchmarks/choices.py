"""Which changes of an image does a short training from nothing bear, how fast may it learn, and how is it pooled? The
plain script, the default recipe as it was before these trials with one augmentation or another, and as it is now; on
phantoms that no other table is made from.

Starting again on the same folder goes on."""
from functools import partial
from unittest.mock import patch

import learning

from mammo_kit.dataset import augment, augment_strongly
from mammo_kit.recipe import AUGMENTATIONS, Recipe

BEFORE = Recipe(pool="max", positive_weight=3, learning_rate=2e-3, warmup=.2)
PLAIN, NOW, MEAN = learning.PLAIN, learning.OURS, learning.LINES["mammo_kit, mean"]
FLIP = {"turn_deg": 0, "scale": 0, "shift": 0, "gain": 0, "gamma": 0}
MOVE = partial(augment, gain=0, gamma=0)
CHOICES = {
    "plain": (PLAIN, None), "plain, maximum": (PLAIN | {"pool": "max"}, None),
    "before, none": (BEFORE, None), "before, flip alone": (BEFORE, partial(augment, **FLIP)),
    "before, flip and move": (BEFORE, MOVE), "before, moderate": (BEFORE, augment),
    "before, gamma .2": (BEFORE, partial(augment, gain=0, gamma=.2)),
    "before, gain .15, gamma .2": (BEFORE, partial(augment, gain=.15, gamma=.2)),
    "before, strong": (BEFORE, augment_strongly),
    "now, mean, flip and move": (MEAN, MOVE), "now, mean, moderate": (MEAN, augment),
    "now, flip and move": (NOW, MOVE), "now, moderate": (NOW, augment)}


def run(folder, name, *args):
    "As `run` of learning.py, with these settings, and this augmentation in place of the moderate one."
    settings, function = CHOICES[name]
    with patch.dict(AUGMENTATIONS, moderate=function): return learning.run(folder, name, *args, settings)


if __name__ == "__main__":
    learning.compare(__doc__, [101, 102], ["easy"], list(CHOICES), run)
