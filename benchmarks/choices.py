"""Which changes of an image does a short training from nothing bear, and how fast may it learn? The plain script, the
default recipe as it was before these trials with one augmentation or another, and as it is now but for its pooling,
which is the plain script's here; on phantoms that no other table is made from.

Starting again on the same folder goes on."""
from functools import partial
from unittest.mock import patch

import learning

from mammo_kit.dataset import augment, augment_strongly
from mammo_kit.recipe import AUGMENTATIONS, Recipe

BEFORE = Recipe(pool="max", positive_weight=3, learning_rate=2e-3, warmup=.2)
FLIP = {"turn_deg": 0, "scale": 0, "shift": 0, "gain": 0, "gamma": 0}
CHOICES = {
    "plain": (BEFORE, None), "before, none": (BEFORE, None), "before, flip alone": (BEFORE, partial(augment, **FLIP)),
    "before, flip and move": (BEFORE, partial(augment, gain=0, gamma=0)), "before, moderate": (BEFORE, augment),
    "before, gamma .2": (BEFORE, partial(augment, gain=0, gamma=.2)),
    "before, gain .15, gamma .2": (BEFORE, partial(augment, gain=.15, gamma=.2)),
    "before, strong": (BEFORE, augment_strongly),
    "now, flip and move": (learning.OURS, partial(augment, gain=0, gamma=0)),
    "now, moderate": (learning.OURS, augment),
    "now, maximum, flip and move": (Recipe(), partial(augment, gain=0, gamma=0)),
    "now, maximum, moderate": (Recipe(), augment)}


def run(folder, name, *args):
    "As `run` of learning.py, with this recipe, and this augmentation in place of the moderate one."
    recipe, function = CHOICES[name]
    with patch.dict(AUGMENTATIONS, moderate=function): return learning.run(folder, name, *args, recipe)


if __name__ == "__main__":
    learning.compare(__doc__, [101, 102], ["easy"], list(CHOICES), run)
