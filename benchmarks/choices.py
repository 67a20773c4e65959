"""Which changes of an image does a short training from nothing bear? The default recipe with one augmentation or
another, and the plain script, on phantoms that no other table is made from.

Starting again on the same folder goes on."""
from functools import partial
from unittest.mock import patch

import learning

from mammo_kit.dataset import augment
from mammo_kit.recipe import AUGMENTATIONS

FLIP = {"turn_deg": 0, "scale": 0, "shift": 0, "gain": 0, "gamma": 0}
CHOICES = {"plain": None, "none": AUGMENTATIONS["none"], "flip alone": partial(augment, **FLIP),
           "flip and move": partial(augment, gain=0, gamma=0), "moderate": augment,
           "with gamma .2, gain 0": partial(augment, gain=0, gamma=.2),
           "with gamma .2, gain .15": partial(augment, gain=.15, gamma=.2), "strong": AUGMENTATIONS["strong"]}


def run(folder, name, *args):
    "As `run` of learning.py, with this augmentation in place of the moderate one."
    with patch.dict(AUGMENTATIONS, moderate=CHOICES[name]): return learning.run(folder, name, *args)


if __name__ == "__main__":
    learning.compare(learning.options(__doc__, [101, 102], ["easy"]), list(CHOICES), run)
