"""Names that users chose, in pictures: of classes, runs and images. They are never formulas, and never hidden."""

from collections.abc import Sequence
import functools
from typing import Any


def show(text: Any, name: str, instead: str = "") -> None:
    """Makes a matplotlib text show a name as it is.

    matplotlib would read `$a$` as a formula, leave a name that begins with `_` out of a legend, and draw boxes for characters
    that its font lacks. Another installed font that has them is taken; without one, the text is `instead`, or else the name
    with a question mark for each of these characters.

    Args:
      text: a `matplotlib.text.Text`, with its size.
      name: what it shows.
      instead: what it shows where no font has all characters.
    """
    text.set_parse_math(False)
    wanted = frozenset(map(ord, name)) - {ord("\n")}
    own = _characters(_default_font())
    if wanted <= own:
        text.set_text(name)
        return
    font = _font_with(wanted)
    if font is not None:
        size = text.get_size()
        text.set_font(font)
        text.set_size(size)
        text.set_text(name)
        return
    text.set_text(instead or "".join(letter if ord(letter) in own else "?" for letter in name))


def legend(owner: Any, handles: Sequence[Any], names: Sequence[str], **options: Any) -> None:
    """A legend of axes or a figure with all names, whatever they begin with; "class 3" for one that no font can show."""
    made = owner.legend(list(handles), [str(number) for number in range(len(names))], **options)
    for number, (text, name) in enumerate(zip(made.get_texts(), names, strict=True)):
        show(text, name, instead=f"class {number}")


@functools.cache
def _default_font() -> str:
    from matplotlib import font_manager

    return font_manager.findfont(font_manager.FontProperties())


@functools.cache
def _characters(path: str) -> frozenset[int]:
    from matplotlib import font_manager

    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a font file that cannot be read
        return frozenset()


@functools.cache
def _font_with(wanted: frozenset[int]) -> Any:
    """An installed font that has all these characters, as font properties; None where there is none."""
    from matplotlib import font_manager

    for font in font_manager.fontManager.ttflist:
        if wanted <= _characters(font.fname):
            return font_manager.FontProperties(fname=font.fname)
    return None
