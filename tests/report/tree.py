"""An HTML page as a tree, to ask for facts instead of comparing markup."""

from html.parser import HTMLParser

VOID = {"br", "hr", "img", "input", "link", "meta", "wbr"}


class Node:
    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    @property
    def text(self):
        """The words in it, with single spaces between."""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join(" ".join(parts).split())

    def all(self, tag, **attributes):
        """Every node below of this tag, with these attributes; `class_` has to be among the classes."""
        wanted = attributes.pop("class_", None)
        for child in self.children:
            if isinstance(child, str):
                continue
            given = child.attributes
            fits = child.tag == tag and all(given.get(name) == value for name, value in attributes.items())
            if fits and (wanted is None or wanted in given.get("class", "").split()):
                yield child
            yield from child.all(tag, **attributes, **({} if wanted is None else {"class_": wanted}))

    def one(self, tag, **attributes):
        return next(self.all(tag, **attributes))

    def table(self):
        """The rows of the first table in it, as texts."""
        table = self if self.tag == "table" else self.one("table")
        return [[cell.text for cell in row.children if not isinstance(cell, str)] for row in table.all("tr")]

    def list(self):
        """The terms of the lists of terms in it, with what stands beside them."""
        return {
            term.text: meaning.text for term, meaning in zip(self.all("dt"), self.all("dd"), strict=True)
        }  # fmt: skip


class _Builder(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Node("page", {})]

    def handle_starttag(self, tag, attributes):
        node = Node(tag, attributes)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open[-1].tag not in ("style", "script"):
            self.open[-1].children.append(data)


def parse(text):
    """Parse a page in which each tag is closed where it should be."""
    builder = _Builder()
    builder.feed(text)
    builder.close()
    assert len(builder.open) == 1, f"<{builder.open[-1].tag}> is not closed"
    return builder.open[0]


def tiles_of(tree):
    """The first screen's numbers, by what they are."""
    return {tile.one("dt").text: tile.one("dd").text for tile in tree.one("dl", class_="tiles").all("div")}
