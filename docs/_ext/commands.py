"""The directive `commands`: a section for each command of spectral-jax, made from what its --help prints."""

import contextlib
import io
import os
import re

from docutils import nodes
from docutils.parsers.rst import Directive

from spectral_jax.cli import COMMANDS, GROUPS, parse


class Commands(Directive):
    """All commands, each with its usage and the options of its --help."""

    def run(self):
        names = [
            (name, *rest)
            for name, leaf in COMMANDS.items()
            for rest in ([(n,) for n in leaf] if name in GROUPS else [()])
        ]
        return [section(" ".join(name)) for name in names]


def section(name):
    """A command as a section."""
    usage, description, *panels = split(help_text(name.split()))
    found = nodes.section(ids=[nodes.make_id(f"spectral-jax-{name}")], names=[name])
    found += nodes.title("", name)
    found += prose(description)
    found += nodes.literal_block(usage, usage, language="text")
    for title, entries in panels:
        found += nodes.rubric("", title)
        found += nodes.definition_list("", *[entry(*words) for words in entries], classes=["options"])
    return found


def help_text(arguments):
    """What a command prints with --help, on lines as long as it takes."""
    printed, columns = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            parse([*arguments, "--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    printed.seek(0)
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.read())


def split(text):
    """The usage, the description, and the panels of a help text: title, and name and help of each option."""
    head, *boxes = re.split(r"(?m)^╭─ ", text)
    usage, description = re.fullmatch(r"usage: (.*?)\n\n(.*)", head.strip(), re.DOTALL).groups()
    panels = []
    for box in boxes:
        title, *lines = box.splitlines()
        entries = []
        for line in lines:
            if line.startswith("│"):
                inner = line[2:-2].rstrip()
                if set(inner) == {"─"}:  # what is above the rule explains the panel
                    entries.clear()
                    continue
                words = [word.strip() for word in re.split(r"\s{2,}", inner.strip(), maxsplit=1)]
                if not inner.startswith(" "):
                    entries.append([words[0], " ".join(words[1:])])
                elif inner:
                    entries[-1][1] = f"{entries[-1][1]} {inner.strip()}".strip()
        panels.append((title.rstrip("─╮ "), entries))
    if not any(name == "-h, --help" for _, entries in panels for name, _ in entries):
        raise ValueError(f"no options found in the help of {usage!r}: its format has changed")
    return usage, description, *panels


def entry(name, explanation):
    """An option as an item of a definition list."""
    term = nodes.term("", "", nodes.literal("", name))
    return nodes.definition_list_item("", term, nodes.definition("", prose(explanation)))


def prose(text):
    """A paragraph, with code between backticks."""
    parts = re.split(r"`([^`]*)`", " ".join(text.split()))
    return nodes.paragraph(
        "",
        "",
        *[(nodes.literal if i % 2 else nodes.Text)(*(["", part] if i % 2 else [part])) for i, part in enumerate(parts)],
    )


def setup(app):
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
