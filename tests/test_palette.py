"""Colours of methods can be told apart, and are the same everywhere."""

import numpy as np
import pytest

from comm_lopt.palette import COLOURS, looks

TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_OKLAB = np.array(
    [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.808675766]]
)  # fmt: skip
# Machado, Oliveira and Fernandes 2009, severity 1.
VISIONS = {
    "ordinary": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.3039]],
}  # fmt: skip


def linear(colours):
    values = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("page", ["light", "dark"])
def test_colours_are_apart_however_one_sees(page, vision):
    seen = linear([getattr(c, page) for c in COLOURS]) @ np.array(VISIONS[vision]).T
    lab = np.cbrt(np.clip(seen, 0, 1) @ TO_LMS.T) @ TO_OKLAB.T
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(lab))
    assert distances.min() > 0.06


@pytest.mark.parametrize(("page", "paper"), [("light", "#ffffff"), ("dark", "#15181d")])
def test_colours_stand_out_from_the_page(page, paper):
    weights = np.array([0.2126, 0.7152, 0.0722])
    one = linear([getattr(c, page) for c in COLOURS]) @ weights + 0.05
    other = linear([paper]) @ weights + 0.05
    assert np.all(np.maximum(one, other) / np.minimum(one, other) >= 3)


def entry(optimizer, learned=False, sends="mean"):
    return {"optimizer": optimizer, "learned": learned, "sends": sends}


def test_look_of_a_method_does_not_depend_on_its_company():
    alone = looks([("SlowMo", entry("SlowMo"))])
    beside = looks([("LOptR", entry("LOptR", True)), ("SlowMo", entry("SlowMo"))])
    assert alone["SlowMo"] == beside["SlowMo"] != beside["LOptR"]


def test_further_labels_of_an_optimizer_have_its_colour_and_lines_of_their_own():
    found = looks(
        [("wide", entry("SlowMo")), ("SlowMo", entry("SlowMo")), ("own", entry("SlowMo"))]
    )
    assert len({look.colour for look in found.values()}) == 1
    assert len({look.dashes for look in found.values()}) == 3
    assert found["SlowMo"] == looks([("SlowMo", entry("SlowMo"))])["SlowMo"]
