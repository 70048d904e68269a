"""Sphinx's settings for the site: `make docs` builds it, and warnings are errors.

The pages link each other by their files, `<push.rst>`, so that they can be read where they are
written, too. `link_files` makes links of the site from these.
"""

import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))  # autodoc imports the library

import pushlab  # noqa: E402

project = "Pushlab"
copyright = "the Pushlab maintainers"
version = release = pushlab.__version__
extensions = ["sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["results/compare", "**/exercise", "**/solution"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other projects: there is no network to ask
html_theme = "furo"
html_title = "Pushlab"
html_favicon = "../static/icon.svg"
html_show_sourcelink = html_copy_source = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
copybutton_exclude = ".linenos, .gp, .go"

#: What is beside the docs and has a page of the site.
PROJECT = {
    ROOT / f"{name.upper()}.rst": f"project/{name}"
    for name in ("readme", "changelog", "contributing", "security")
}


def link_files(app: Sphinx, tree: nodes.document) -> None:
    """Make links between pages, and downloads, of links to files."""
    docname = app.env.docname
    place = ROOT if docname.startswith("project/") else (DOCS / docname).parent
    if place == ROOT:
        for image in tree.findall(nodes.image):
            image["uri"] = image["uri"].removeprefix("docs").replace("../", "")
    for node in list(tree.findall(nodes.reference)):
        address, _ = urldefrag(node.get("refuri", ""))
        if not address or "://" in address or address.startswith(("mailto:", "/")):
            continue
        path = (place / address).resolve()
        common: dict[str, Any] = {"refdoc": docname, "refwarn": True}
        if path in PROJECT or (path.suffix == ".rst" and path.is_relative_to(DOCS)):
            target = PROJECT.get(path) or path.relative_to(DOCS).with_suffix("").as_posix()
            link: nodes.Element = addnodes.pending_xref(
                "",
                refdomain="std",
                reftype="doc",
                refexplicit=True,
                reftarget=f"/{target}",
                **common,
            )
        else:
            names = {"refdomain": "", "reftype": "download"}
            names["reftarget"] = f"/../{path.relative_to(ROOT).as_posix()}"
            link = addnodes.download_reference("", **names, **common)
        link += node.children or [nodes.inline("", address)]
        node.replace_self(link)


def name_files(app: Sphinx, tree: nodes.document) -> None:
    """Name what was compared by its file alone, not by its place on this machine."""
    for block in tree.findall(nodes.literal_block):
        if block.get("language") == "udiff":
            text = re.sub(r"^(---|\+\+\+) .*/", r"\1 ", block.astext(), flags=re.M)
            block.children = [nodes.Text(text)]
            block.rawsource = text  # else it is not highlighted


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", name_files)
    app.connect("doctree-read", link_files, priority=100)
