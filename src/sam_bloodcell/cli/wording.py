"""Messages of the library in the words of the command line: `overwrite=True` is `--overwrite` there."""

import re
from collections.abc import Iterable
from typing import Any

# Paths and names in quotation marks are left as they are. An apostrophe in or after a word is not a quotation mark.
_QUOTED = r"""(?<![\w=])'.*?'(?!\w)|(?<![\w=])".*?"(?!\w)"""
_VALUE = r"""'[^']*'|"[^"]*"|\.\.\.|\w+(?:\.\w+)*"""
_UNSAID = ("None", "False")  # values that no option has


def option_names(parameters: Iterable[Any]) -> dict[str, str]:
    """Return the options of a command by the name that Python gives them."""
    return {each.name: max(each.opts, key=len) for each in parameters if max(each.opts, key=len).startswith("--")}


def in_options(message: str, options: dict[str, str]) -> str:
    """Write the arguments in a message as options: `batch_size=8` as `8 (--batch-size)`, in a fix as `--batch-size 8`.

    A name without a value is replaced only in the fix, and only if it is not an English word, as in "lower cv".
    Arguments that are not options of the command, and everything in quotation marks, stay as they are.
    """
    if not options:
        return message
    fix = message.find("Fix:") if "Fix:" in message else len(message)
    odd = [name for name in options if "_" in name or name == "cv"]
    named = rf"(?P<name>{'|'.join(map(re.escape, options))})=(?P<value>{_VALUE})"
    bare = rf"(?P<bare>{'|'.join(map(re.escape, odd)) or '(?!)'})(?!\w|[/=(\-]|\.\w)"

    def written(found: re.Match[str]) -> str:
        in_fix = found.start() > fix
        if name := found["bare"]:
            return options[name] if in_fix else name
        if not found["name"] or found["value"] in _UNSAID:
            return found[0]
        option, value = options[found["name"]], found["value"].strip("'\"")
        if value == "True":
            return option
        in_words = value[0].isdigit() and not in_fix and not message[: found.start()].endswith("(")
        return f"{value} ({option})" if in_words else f"{option} {value}"

    return re.sub(rf"{_QUOTED}|(?<![\w/.\-])(?:{named}|{bare})", written, message)
