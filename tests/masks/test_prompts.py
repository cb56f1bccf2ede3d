"""Prompt files: complete for every class, overridable, and refusing what is unknown or too long by name."""

from types import SimpleNamespace

import pytest
import torch

from tlg_lib.data.classes import class_names
from tlg_lib.errors import TLGError
from tlg_lib.masks.prompts import FILES, encode_prompts, load_prompts


def written(tmp_path, text):
    path = tmp_path / "words.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("dataset", FILES)
def test_every_class_has_words_of_its_own(dataset):
    prompts = load_prompts(dataset)
    names = class_names(dataset)
    assert prompts.classes == names
    assert len(prompts.names) == len(prompts.attributes) == len(prompts.background) == len(names)
    assert len(set(prompts.class_prompts())) == len(names)
    assert len(set(prompts.attributes)) == len(names)
    assert all(" with " in words for words in prompts.attributes), "docs/design.md, 5: as 'bicycle with wheels'"
    assert all(1 <= words.count(",") <= 2 and ", " not in words for words in prompts.background), "as 'road,park'"
    assert len(prompts.background_list) >= 20
    assert len(set(prompts.background_list)) == len(prompts.background_list)


def test_prompts_have_the_form_of_the_design():
    prompts = load_prompts("pascal")
    bicycle = class_names("pascal").index("bicycle")
    assert prompts.class_prompt(bicycle) == "a clean origami bicycle, bike."
    assert prompts.attributes[bicycle] == "bicycle with wheels" and prompts.background[bicycle] == "road,park"
    assert {"land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway"} <= set(
        prompts.background_list
    )


def test_shared_classes_of_pascal_and_coco_agree():
    pascal, coco = load_prompts("pascal"), load_prompts("coco")
    for name in set(pascal.classes) & set(coco.classes):
        a, b = pascal.classes.index(name), coco.classes.index(name)
        assert (pascal.names[a], pascal.attributes[a]) == (coco.names[b], coco.attributes[b])


def test_a_users_file_overrides_only_what_it_holds(tmp_path):
    path = written(tmp_path, 'template: "a photo of a {}."\nclasses:\n  bicycle: {names: [tandem]}\n')
    ours, theirs = load_prompts("pascal"), load_prompts("pascal", path)
    assert theirs.class_prompt(1) == "a photo of a tandem."
    assert theirs.attributes == ours.attributes and theirs.names[0] == ours.names[0]
    assert theirs.background_list == ours.background_list
    assert ours.digest() != theirs.digest() == load_prompts("pascal", path).digest()


@pytest.mark.parametrize(
    "text, named",
    [
        ("classes:\n  bycicle: {names: [bike]}\n", "did you mean 'bicycle'"),
        ("classes:\n  unicorn: {names: [x]}\n", "unknown class 'unicorn'"),
        ("classes:\n  car: {colour: red}\n", "class 'car': unknown key 'colour'"),
        ("classes:\n  car: {names: []}\n", "class 'car': names"),
        ("classes:\n  car: {attribute: 7}\n", "class 'car': attribute"),
        ("classes: [car]\n", "mapping of class names"),
        ("template: no place\n", "template"),
        ("template: '{} and {}'\n", "template"),
        ("template: '{} of {name}'\n", "template"),
        ("templates: x\n", "unknown key 'templates'"),
        ("background_list: [grass, dog]\n", "background word 'dog'"),
        ("background_list: grass\n", "background_list"),
        ("just text\n", "expected a mapping"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_faulty_files_are_refused_by_name(tmp_path, text, named):
    path = written(tmp_path, text)
    with pytest.raises(TLGError) as caught:
        load_prompts("pascal", path)
    assert named in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_and_unknown_dataset(tmp_path):
    with pytest.raises(TLGError, match="nothing.yaml"):
        load_prompts("pascal", tmp_path / "nothing.yaml")
    with pytest.raises(TLGError, match="imagenet"):
        load_prompts("imagenet")


def test_class_ids_by_name_and_synonym():
    prompts = load_prompts("pascal")
    assert prompts.class_id("TV monitor") == 19 and prompts.class_id("couch") == prompts.class_id("sofa") == 17
    with pytest.raises(TLGError, match="did you mean 'bottle'"):
        prompts.class_id("botle")


def test_a_new_class_is_added_without_touching_the_others():
    prompts = load_prompts("pascal")
    same, known = prompts.with_class("potted plant")
    assert same is prompts and known == 15
    more, added = prompts.with_class("coffee mug, cup")
    assert added == 20 and more.class_prompt(20) == "a clean origami coffee mug, cup."
    assert more.class_prompts()[:20] == prompts.class_prompts()
    grassless, _ = prompts.with_class("Grass")
    assert "grass" not in grassless.background_list and "grass" in prompts.background_list
    with pytest.raises(TLGError, match="empty"):
        prompts.with_class(" , ")


def limited_clip(words=8):
    """A text tower that takes at most ``words`` words and embeds a prompt by its hash-free length."""

    def encode_text(texts):
        for text in texts:
            if len(text.split()) > words:
                raise TLGError(f"prompt too long: '{text}'")
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    return SimpleNamespace(encode_text=encode_text)


def test_an_over_long_prompt_is_refused_with_its_owner(tmp_path):
    path = written(tmp_path, "classes:\n  sheep: {names: [one two three four five six]}\n")
    with pytest.raises(TLGError, match="names of class 'sheep': prompt too long"):
        encode_prompts(limited_clip(), load_prompts("pascal", path))
    path = written(tmp_path, "background_list: [grass, a very long way of saying sky]\n")
    with pytest.raises(TLGError, match="background word 'a very long way of saying sky'"):
        encode_prompts(limited_clip(), load_prompts("pascal", path))


def test_vectors_stand_in_the_order_of_the_prompts():
    prompts = load_prompts("pascal")
    classes, background = encode_prompts(limited_clip(), prompts)
    assert classes[:, 0].tolist() == [len(p) for p in prompts.class_prompts()]
    assert background[:, 0].tolist() == [len(p) for p in prompts.background_prompts()]


@pytest.mark.parametrize(
    "dataset, spelled, name",
    [
        ("pascal", "dining_table", "diningtable"),
        ("pascal", "potted-plant", "pottedplant"),
        ("pascal", "tv/monitor", "tvmonitor"),
        ("pascal", "TV", "tvmonitor"),
        ("pascal", "airplane", "aeroplane"),
        ("coco", "tvmonitor", "tv"),
        ("coco", "traffic-light", "traffic light"),
        ("coco", "aeroplane", "airplane"),
    ],
)
def test_spelling_does_not_make_a_new_class(dataset, spelled, name):
    prompts = load_prompts(dataset)
    same, class_id = prompts.with_class(spelled)
    assert same is prompts and prompts.classes[class_id] == name
