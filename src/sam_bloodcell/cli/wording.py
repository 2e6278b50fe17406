"""Messages of the library in the words of the command line: `overwrite=True` is `--overwrite` there."""

import re
from collections.abc import Iterable
from typing import Any

# Paths and names stand in quotation marks, and are left as they are; an apostrophe in a word opens none.
_QUOTED = r"(?<!\w)'[^']*'(?!\w)"
_VALUE = r"""'[^']*'|"[^"]*"|\.\.\.|\w+(?:\.\w+)*"""


def option_names(parameters: Iterable[Any]) -> dict[str, str]:
    """Return the options of a command by the name that Python gives them."""
    return {each.name: max(each.opts, key=len) for each in parameters if max(each.opts, key=len).startswith("--")}


def in_options(message: str, options: dict[str, str]) -> str:
    """Write the arguments in a message as options: `batch_size=8` as `8 (--batch-size)`, `cv` as `--cv`.

    Arguments that are no option of the command, and English words, stay as they are.
    """
    if not options:
        return message
    # A name without a value is a name for sure where no English word is written so.
    odd = [name for name in options if "_" in name or name == "cv"]
    names = "|".join(map(re.escape, options))
    pattern = rf"{_QUOTED}|(?<![\w/.\-])(?P<name>{names})=(?P<value>{_VALUE})"
    if odd:
        pattern += rf"|(?<![\w/.\-])(?P<bare>{'|'.join(map(re.escape, odd))})(?![\w/.=\-(])"

    def written(found: re.Match[str]) -> str:
        if bare := found["bare"] if odd else None:
            return options[bare]
        if not found["name"]:
            return found[0]
        option, value = options[found["name"]], found["value"].strip("'\"")
        if value == "True":
            return option
        return f"{value} ({option})" if value[0].isdigit() else f"{option} {value}"

    return re.sub(pattern, written, message)
