"""Configs refuse what they do not know, and say in one line what is wrong."""

import pytest

from tlg_lib.config import FIELDS, PRESETS, SECTIONS, SWITCHES, VARIANT_SWITCHES, config_from_dict, make_config
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
        ({"use_ha": 1}, "use_ha=1: expected true or false"),
        ({"lr": 20}, "lr=20: must be between 0 and 10"),
        ({"correlation_pool": "3"}, "choose one of 1, 2, 4"),
        ({"width": 12}, "multiple of 8"),
        ({"image_size": [1, 2, 3]}, "two whole numbers"),
        ({"tokens": "diagonal"}, "tokens='diagonal': choose one of grid, rows"),
        ({"train_hetero": 3}, "train_hetero=3: expected true or false"),
        ({"as_released": "tokns"}, "as_released: no switch 'tokns'"),
        ({"as_released": 3}, "as_released=3"),
        ({"use_ha": False}, "use_ht=true needs use_ha=true"),
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
    config = make_config("mini")
    for name, f in FIELDS.items():
        if f.annotation in (str, int, float, bool):
            assert type(getattr(config, name)) is f.annotation, name


def test_released_turns_every_switch_off():
    released, extended = make_config("mini", variant="released"), make_config("mini")
    for name, value in VARIANT_SWITCHES["released"].items():
        assert name == "as_released" or getattr(released, name) == value
    assert released.as_released == set(SWITCHES) and not extended.as_released
    assert (released.to_dict()["tokens"], extended.to_dict()["tokens"]) == ("rows", "grid")


def test_switches_of_the_release_are_named_alone_or_as_a_set():
    alone = make_config("mini", tokens="rows", train_hetero="off")
    assert alone == make_config("mini", as_released="tokens, train_hetero")
    assert alone == make_config("mini", as_released=["train_hetero", "tokens"], mask_support=True)
    assert alone.as_released == {"tokens", "train_hetero"} and alone.to_dict()["train_hetero"] is False
    most = make_config("mini", variant="released", tokens="grid")
    assert most.as_released == set(SWITCHES) - {"tokens"}
    assert most.replace(as_released="none").as_released == set()


def test_the_sections_are_the_config_and_it_reads_on_one_screen():
    assert sorted(name for section in SECTIONS for name in section.model_fields) == sorted(FIELDS)
    for variant in VARIANT_SWITCHES:
        text = str(make_config("pascal", variant=variant))
        assert len(text.splitlines()) <= 20 and all(len(line) < 120 for line in text.splitlines())
        assert all(f"{name}=" in text for name in FIELDS)


@pytest.mark.parametrize("preset", ["mini", "pascal-lite"])
def test_another_variant_or_supervision_brings_its_settings_and_leaves_the_callers(preset):
    config = make_config(preset)
    for kind in ({"variant": "released"}, {"supervision": "image"}, {"variant": "hsnet", "supervision": "image"}):
        assert config.replace(**kind) == make_config(preset, **kind)
        assert config.replace(**kind).replace(variant="extended", supervision="pixel") == config
    own = make_config(preset, mask_dropout=0.3, lr=0.01, tokens="rows", fold=2)
    moved = own.replace(variant="released", shots=5)
    assert moved == make_config(preset, variant="released", mask_dropout=0.3, lr=0.01, fold=2, shots=5)
    assert moved.replace(variant="extended").mask_dropout == 0.3


def test_learning_from_pseudo_masks_hides_most_of_them_unless_told_otherwise():
    assert make_config("mini", supervision="image").mask_dropout == 0.97
    assert make_config("mini").mask_dropout == 0.5
    assert make_config("mini", supervision="image", mask_dropout=0.1).mask_dropout == 0.1
    assert make_config("mini", supervision="image", variant="released").mask_dropout == 0.0


def test_corrected_has_the_papers_switches_and_nothing_of_ours():
    released, corrected, extended = (
        make_config("pascal-lite", variant=v) for v in ("released", "corrected", "extended")
    )
    ours = {
        "token_skip": False, "correlation_pool": 1, "prototype_prior": False, "trusted_vote": False, "dice": 0.0,
        "support_loss": 0.6, "noisy_targets": "none", "mask_dropout": 0.0,
    }  # fmt: skip
    for name, value in ours.items():
        assert getattr(corrected, name) == getattr(released, name) == value != getattr(extended, name), name
    assert not corrected.as_released
    for name in set(FIELDS) - set(ours) - {"variant"}:
        assert getattr(corrected, name) == getattr(extended, name), name
    assert make_config("mini", variant="corrected", supervision="image").mask_dropout == 0.0
