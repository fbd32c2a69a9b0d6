"""What a torch.save file holds besides tensors and plain containers, kept as inert records."""

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """A function, class or object of which only what the file says is known. It is never imported, called or built.

    Attributes:
      name: the full name of the function or class, such as "pathlib.PosixPath".
      arguments: what it is called with: a tuple; (record, arguments) for the call of a record that is itself a call;
        None for the bare name.
      state: the attributes that the file gives the object: mostly a dict.
      items: a list of its items, or a dict of its keys and values, if it is a container.
    """

    name: str
    arguments: Any = None
    state: Any = None
    items: list | dict | None = None

    def __repr__(self) -> str:  # short, as what is inside may be shared many times or lead back here
        return f"<{self.name}>"
