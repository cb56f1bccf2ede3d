"""Configs refuse what they do not know, and say in one line what is wrong."""

import pytest

from tlg_lib.config import FIELDS, PRESETS, VARIANT_SWITCHES, config_from_dict, make_config
from tlg_lib.errors import TLGError


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", VARIANT_SWITCHES)
def test_every_preset_and_variant_makes_a_config_that_survives_its_dictionary(preset, variant):
    config = make_config(preset, variant=variant)
    assert config.preset == preset and config.variant == variant
    assert config_from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"fold": 7}, "fold=7"),
        ({"shots": 0}, "shots=0"),
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"steps": "many"}, "steps='many'"),
        ({"steps": True}, "steps=True"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"lr": "nan"}, "lr='nan'"),
        ({"use_ha": "perhaps"}, "use_ha"),
        ({"variant": "best"}, "unknown variant"),
        ({"image_size": "12"}, "image_size"),
        ({"image_size": "a x b"}, "image_size"),
        ({"widths_4d": "6,8,8"}, "multiple of 4"),
        ({"backbone": "vit"}, "choose one of"),
        ({"noisy_targets": "hope"}, "noisy_targets"),
        ({"fold": None}, "fold=None"),
        ({"data": 3}, "expected text"),
    ],
)
def test_bad_values_name_the_field(overrides, words):
    with pytest.raises(TLGError, match=words.replace("(", r"\(")) as caught:
        make_config("mini", **overrides)
    assert "\n" not in str(caught.value)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(TLGError, match="mini, smoke, pascal-lite, pascal, coco"):
        make_config("maxi")


def test_strings_from_a_shell_become_typed_values():
    config = make_config("mini", image_size="96x128", lr="1e-3", use_hc="off", steps="7", widths_4d="4,8,12")
    assert (config.image_size, config.lr, config.use_hc, config.steps) == ((96, 128), 1e-3, False, 7)
    assert config.widths_4d == (4, 8, 12)
    assert make_config("mini", image_size=160).image_size == (160, 160)


def test_every_default_has_the_type_of_its_field():
    kinds = {"str": str, "int": int, "float": float, "bool": bool}
    config = make_config("mini")
    for name, f in FIELDS.items():
        if f.type in kinds:
            assert type(getattr(config, name)) is kinds[f.type], name


def test_released_turns_every_corrected_switch_off():
    released, corrected = make_config("mini", variant="released"), make_config("mini")
    for switch, value in VARIANT_SWITCHES["released"].items():
        assert getattr(released, switch) == value
    assert not released.train_hetero and corrected.train_hetero


def test_learning_from_pseudo_masks_hides_most_of_them_unless_told_otherwise():
    assert make_config("mini", supervision="image").mask_dropout == 0.97
    assert make_config("mini").mask_dropout == 0.0
    assert make_config("mini", supervision="image", mask_dropout=0.1).mask_dropout == 0.1
    assert make_config("mini", supervision="image", variant="released").mask_dropout == 0.0
