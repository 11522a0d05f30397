"""Plots as files, and as SVG to be put into a page."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from xml.etree import ElementTree

from matplotlib.figure import Figure

from tp_dspy.errors import ConfigurationError
from tp_dspy.report.plots.style import INK, drawing

__all__ = ["save", "svg"]

_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"""((?:^|;)\s*font(?:-family)?:[^;'"]*?)((?:'[^']*'|"[^"]*"),\s*)+sans-serif""")


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a plot to a file, on white.

    Args:
        figure: The plot.
        path: Ends in .png (150 dots per inch) or .svg; its folder is made when missing.

    Returns:
        The path.

    Raises:
        ConfigurationError: If the name ends otherwise.
    """
    target = Path(path)
    kind = target.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ConfigurationError(f"The plot's file is {target.name!r}; expected a name that ends in .png or .svg.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with drawing():
        # Without the time, the same plot gives the same file.
        figure.savefig(target, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return target


def svg(figure: Figure, prefix: str | None = None) -> str:
    """Draw a plot as SVG for an HTML page, to be inserted as it is.

    It takes the width of what it is put into and the page's text colour, has no background, and its text stays text.
    Nothing in it reaches beyond it: no style sheet, no script, no address, and no id but those its parts refer to.

    Args:
        figure: The plot.
        prefix: Of ids, which must differ from plot to plot in a page; a digest of the plot when None.
    """
    buffer = io.BytesIO()
    with drawing():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    # Made by matplotlib a moment ago: names in it are text, never markup.
    root = ElementTree.fromstring(drawn)
    _without_namespaces(root)
    for parent in list(root.iter()):
        for child in list(parent):
            # The style sheet would hold for the whole page.
            if child.tag in ("metadata", "style", "title"):
                parent.remove(child)
    _rename_ids(root, prefix or f"p{hashlib.sha256(drawn).hexdigest()[:8]}")
    for element in root.iter():
        _simplify(element)
    for element in root.iter():
        _share_style(element)
    _head(root, " ".join(figure.get_suptitle().split()) or "Plot")
    return ElementTree.tostring(root, encoding="unicode")


def _head(root: ElementTree.Element, title: str) -> None:
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": title,
        # What matplotlib says of all elements in its style sheet.
        "style": "width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt",
    }
    named = ElementTree.Element("title")
    named.text = title
    root.insert(0, named)


def _without_namespaces(root: ElementTree.Element) -> None:
    """Name elements and attributes as HTML does, where SVG needs no prefixes."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Give the ids that something refers to names of this plot's own, and take the others away."""
    used: dict[str, str] = {}

    def renamed(old: str) -> str:
        return used.setdefault(old, f"{prefix}-{len(used)}")

    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "href" and value.startswith("#"):
                element.attrib[name] = f"#{renamed(value[1:])}"
            elif "url(#" in value:
                element.attrib[name] = _REFERENCE.sub(lambda match: f"url(#{renamed(match[1])})", value)
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old in used:
            element.attrib["id"] = used[old]


def _simplify(element: ElementTree.Element) -> None:
    """Take the page's colour and font, and no more digits than can be seen: thousands of points have to be small."""
    for name in ("d", "x", "y", "width", "height"):
        if name in element.attrib:
            element.attrib[name] = _LONG_NUMBER.sub(
                lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), element.attrib[name]
            )
    for name in ("style", "fill", "stroke"):
        if name in element.attrib:
            value = re.sub(INK, "currentColor", element.attrib[name], flags=re.IGNORECASE)
            element.attrib[name] = _FONT.sub(r"\1sans-serif", value)


def _share_style(element: ElementTree.Element) -> None:
    """Say once what all points of a line look like."""
    styles = {child.attrib.get("style") for child in element}
    if len(element) > 1 and len(styles) == 1 and all(child.tag == "use" for child in element):
        (common,) = styles
        if common is not None and "style" not in element.attrib:
            element.attrib["style"] = common
            for child in element:
                del child.attrib["style"]
