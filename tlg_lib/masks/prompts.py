"""The words behind every class: synonyms, an attribute, the usual background, and words for no object.

Prompts come from YAML data files in the form of docs/design.md, 5 (CLIP-ES, Lin et al., CVPR 2023). A user's
YAML may override any entry; unknown classes and prompts beyond the text tower's limit are refused by name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import TLGError
from ..machine.paths import user_path

FILES = {"mini": "prompts_pascal.yaml", "pascal": "prompts_pascal.yaml", "coco": "prompts_coco.yaml"}
ENTRY_KEYS = ("names", "attribute", "background")
TOP_KEYS = ("template", "background_list", "classes")
# One thing under the names of the two datasets, besides spelling.
SAME = ({"tvmonitor", "tv"}, {"aeroplane", "airplane"}, {"motorbike", "motorcycle"}, {"sofa", "couch"})


@dataclass(frozen=True)
class Prompts:
    """Words of one dataset; position c of each tuple belongs to class id c (from 0).

    classes: the dataset's class names; names: synonyms; attributes: "bicycle with wheels"; background: usual
    surroundings, "road,park"; background_list: words for land, sky and furniture that no class names;
    template: text with one {} for the words.
    """

    classes: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    attributes: tuple[str, ...]
    background: tuple[str, ...]
    background_list: tuple[str, ...]
    template: str

    def fill(self, words: str) -> str:
        """The template with ``words`` in its place."""
        return self.template.replace("{}", words)

    def class_prompt(self, class_id: int) -> str:
        """One prompt with all synonyms of the class, joined by commas."""
        return self.fill(", ".join(self.names[class_id]))

    def class_prompts(self) -> list[str]:
        return [self.class_prompt(c) for c in range(len(self.classes))]

    def background_prompts(self) -> list[str]:
        return [self.fill(word) for word in self.background_list]

    def class_id(self, name: str) -> int:
        """Class id of a name or synonym, ignoring case, spaces, '_', '-' and '/'; else TLGError with the closest."""
        wanted = {_plain(name), *next((same for same in SAME if _plain(name) in same), ())}
        for class_id, synonyms in enumerate(self.names):
            if wanted & {_plain(self.classes[class_id]), *map(_plain, synonyms)}:
                return class_id
        raise _unknown_class(name, self.classes, "the prompts")

    def with_class(self, name: str) -> tuple[Prompts, int]:
        """These prompts and the class id of ``name``, which is added as a new last class when none fits."""
        try:
            return self, self.class_id(name)
        except TLGError:
            pass
        words = tuple(part.strip() for part in name.split(",") if part.strip())
        if not words:
            raise TLGError('the class name is empty: say what to look for, as --class "coffee mug"')
        usual = ",".join(self.background_list[:2])
        kept = tuple(w for w in self.background_list if _plain(w) not in map(_plain, words))
        if not kept:
            raise TLGError(f"class '{name}' leaves no background word: give other words in background_list")
        added = Prompts(
            self.classes + (words[0],),
            self.names + (words,),
            self.attributes + (words[0],),
            self.background + (usual,),
            kept,
            self.template,
        )
        return added, len(self.classes)

    def digest(self) -> str:
        """Short hash of all words: masks made with other words do not match."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def load_prompts(dataset: str, user_file: str | Path = "") -> Prompts:
    """Prompts of "mini", "pascal" or "coco", with the entries of a user's YAML file put over them.

    The user's file has the same form and may hold any part of it:

        template: "a photo of a {}."
        background_list: [grass, sky]
        classes:
          bicycle: {names: [bicycle, tandem], attribute: bicycle with pedals, background: "road,shed"}

    Raises TLGError naming the file and the class or key that is unknown, missing or of the wrong kind.
    """
    from ..data.classes import class_names

    if dataset not in FILES:
        raise TLGError(f"no prompts for dataset '{dataset}': choose one of {', '.join(FILES)}")
    classes = tuple(class_names(dataset))
    own = Path(__file__).with_name(FILES[dataset])
    merged = _read(own, classes)
    if user_file:
        theirs = _read(user_path(user_file), classes)
        for class_id, entry in theirs["classes"].items():
            merged["classes"][class_id] = {**merged["classes"][class_id], **entry}
        merged.update({k: theirs[k] for k in ("template", "background_list") if k in theirs})
    source = user_file or own
    lacking = [name for c, name in enumerate(classes) if set(merged["classes"].get(c, ())) != set(ENTRY_KEYS)]
    if lacking:
        raise TLGError(f"{source}: class '{lacking[0]}' needs {', '.join(ENTRY_KEYS)}")
    entries = [merged["classes"][c] for c in range(len(classes))]
    prompts = Prompts(
        classes,
        tuple(e["names"] for e in entries),
        tuple(e["attribute"] for e in entries),
        tuple(e["background"] for e in entries),
        merged["background_list"],
        merged["template"],
    )
    own_words = {_plain(word): name for name, words in zip(classes, prompts.names) for word in (name, *words)}
    for word in prompts.background_list:
        if _plain(word) in own_words:
            raise TLGError(
                f"{source}: background word '{word}' is also a name of class "
                f"'{own_words[_plain(word)]}': drop it from background_list"
            )
    return prompts


def encode_prompts(clip, prompts: Prompts):
    """Text vectors (classes [C, D], background words [Bg, D]), unit rows, of a Clip (clips.py).

    Raises TLGError, naming the class or the background word, when a prompt exceeds the text tower's limit.
    """
    owners = [f"names of class '{name}'" for name in prompts.classes]
    owners += [f"background word '{word}'" for word in prompts.background_list]
    texts = prompts.class_prompts() + prompts.background_prompts()
    try:
        vectors = clip.encode_text(texts)  # [C + Bg, D]
    except TLGError as error:
        # Only now, after a refusal, is every prompt asked alone: to say whose it is.
        for owner, text in zip(owners, texts):
            try:
                clip.encode_text([text])
            except TLGError as single:
                raise TLGError(f"{owner}: {single}", single.code) from None
        raise error
    count = len(prompts.classes)
    return vectors[:count], vectors[count:]


def _plain(words: str) -> str:
    return re.sub(r"[\s_/-]+", "", words.lower())


def _unknown_class(name, classes, where) -> TLGError:
    close = difflib.get_close_matches(str(name), classes, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"the classes are {', '.join(classes)}"
    return TLGError(f"{where}: unknown class '{name}': {hint}")


def _read(path: Path, classes: tuple[str, ...]) -> dict:
    """Checked content of a prompt file; ``classes`` keyed by class id."""
    from ..machine.safe_yaml import read_yaml

    content = read_yaml(path)
    if not isinstance(content, dict):
        raise TLGError(f"{path}: expected a mapping with {', '.join(TOP_KEYS)}")
    for key in content:
        if key not in TOP_KEYS:
            raise TLGError(f"{path}: unknown key '{key}': the keys are {', '.join(TOP_KEYS)}")
    result = {}
    if "template" in content:
        template = content["template"]
        braces = "".join(c for c in template if c in "{}") if isinstance(template, str) else ""
        if braces != "{}" or "{}" not in template:
            raise TLGError(f'{path}: template needs one {{}} and no other braces, as "a photo of {{}}."')
        result["template"] = template
    if "background_list" in content:
        result["background_list"] = _words(content["background_list"], f"{path}: background_list")
    entries = content.get("classes", {})
    if not isinstance(entries, dict):
        raise TLGError(f"{path}: classes: expected a mapping of class names")
    result["classes"] = {}
    for name, entry in entries.items():
        if name not in classes:
            raise _unknown_class(name, classes, path)
        result["classes"][classes.index(name)] = _entry(entry, f"{path}: class '{name}'")
    return result


def _entry(entry, where: str) -> dict:
    if not isinstance(entry, dict) or not entry:
        raise TLGError(f"{where}: expected {', '.join(ENTRY_KEYS)}")
    for key, value in entry.items():
        if key not in ENTRY_KEYS:
            raise TLGError(f"{where}: unknown key '{key}': the keys are {', '.join(ENTRY_KEYS)}")
        if key != "names" and (not isinstance(value, str) or not value.strip()):
            raise TLGError(f"{where}: {key} must be text")
    return {k: _words(v, f"{where}: names") if k == "names" else v.strip() for k, v in entry.items()}


def _words(value, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(w, str) and w.strip() for w in value):
        raise TLGError(f"{where}: expected a list of words")
    return tuple(w.strip() for w in value)
