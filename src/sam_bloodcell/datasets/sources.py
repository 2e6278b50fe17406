"""What each public dataset is: its page, licence and citation."""

from pathlib import Path
from typing import NamedTuple

from .tables import read_table


class Source(NamedTuple):
    """A public dataset.

    Attributes
    ----------
    name : str
        As in the label maps.
    title, page, licence, citation : str
    layout : str
        What a folder of it looks like.
    """

    name: str
    title: str
    page: str
    licence: str
    citation: str
    layout: str

    @property
    def description(self) -> str:
        """All of it as text."""
        return f"{self.title}\nSource: {self.page}\nLicence: {self.licence}\nPlease cite: {self.citation}"


_TABLE = read_table(Path(__file__).with_name("sources.csv"), Source._fields)
SOURCES = {row[0]: Source(*row) for row in _TABLE[list(Source._fields)].to_numpy().tolist()}
