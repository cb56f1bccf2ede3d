"""Control characters of file names, settings and logs never reach a terminal: they are written out."""

import contextlib
import io
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tlg_lib.cli import main
from tlg_lib.machine.terminal import Guarded, Plain, console, plain, shown, signed

EVIL = "a\x1b[2J\x07\x9b31m\u202ecod\r\x08b"  # clears the screen, rings, turns what follows round, goes back
SPELT = r"a\x1b[2J\x07\x9b31m\u202ecod\r\x08b"


def controls(text: str) -> list[str]:
    """The characters that do something; line ends and tabs lay text out."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") and c not in "\n\t"]


def test_every_control_character_of_unicode_is_written_out():
    doing = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) in ("Cc", "Zl", "Zp", "Cs")]
    doing += [chr(n) for n in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))]  # direction
    assert [c for c in doing if c in plain(c)] == ["\t", "\n"] and all(plain(c, line=True).isprintable() for c in doing)
    assert plain("Füße 日本 🐕 [b]") == "Füße 日本 🐕 [b]" and plain("a\nb\r\nc", line=True) == "a b c"
    assert plain(EVIL) == SPELT


def test_streams_and_consoles_pass_on_text_only(capsys):
    under = io.StringIO()
    print(EVIL, file=Plain(under))
    assert under.getvalue() == SPELT + "\n"
    with contextlib.redirect_stdout(under):
        console().print(shown("[red]x[/x] " + EVIL))
    assert under.getvalue().endswith("[red]x[/x] " + SPELT.replace(r"\r", " ") + "\n")
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Guarded(narrow).write("é")
    narrow.flush()
    assert narrow.buffer.getvalue() == rb"\xe9"


def said(*arguments) -> str:
    """All that a command prints, to either stream."""
    both = io.StringIO()
    with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both), pytest.raises(SystemExit):
        main([str(a) for a in arguments])
    return both.getvalue()


def test_commands_print_no_control_character_of_names_settings_and_files(tmp_path, own_home):
    for name in ("JPEGImages", "SegmentationClassAug"):
        (tmp_path / "d" / name).mkdir(parents=True)
    picture = Image.fromarray(np.zeros((9, 9), np.uint8))
    for stem in (EVIL, EVIL + "2"):
        picture.save(tmp_path / "d" / "JPEGImages" / f"{stem}.jpg")
        picture.save(tmp_path / "d" / "SegmentationClassAug" / f"{stem}.png")
    (tmp_path / "d" / "JPEGImages" / f"{EVIL}.txt").touch()
    (tmp_path / "s.yaml").write_text(f"preset: smoke\nname: {EVIL!a}\n\x9b: 1\n")
    told = [
        said("data", "verify", tmp_path / "d"),
        said("data", "splits", tmp_path / "d"),
        said("data", "verify", tmp_path / EVIL),
        said("train", "smoke", "--data", tmp_path / EVIL),
        said("train", EVIL),
        said("train", "smoke", "--set", f"{EVIL}=1"),
        said("train", "smoke", "--fold", EVIL),
        said("eval", tmp_path / EVIL),
        said(EVIL),
        said("sweep", tmp_path / "s.yaml"),
        said("sweep", tmp_path / f"{EVIL}.yaml"),
        said("predict", "--query", tmp_path / "d" / "JPEGImages" / f"{EVIL}.txt", "--support", EVIL, "--class", EVIL),
    ]
    assert all(told) and [controls(text) for text in told] == [[]] * len(told)
    assert sum(r"\x1b[2J" in text for text in told) >= 9


@pytest.mark.parametrize("points, text", [(0.0, "+0.0"), (-0.04, "+0.0"), (-0.06, "-0.1"), (-12, "-12.0")])
def test_a_difference_that_rounds_to_zero_has_no_minus(points, text):
    assert signed(points) == text
    assert signed(np.float64(-0.004), 2) == "+0.00" and signed(float("nan")) == "+nan"
