"""Writes a page for everything public, from its docstring, and puts the notebooks among the pages.

A layer's page has its panel of `images/gallery.png`. A build that leaves a public name without a page fails.
"""

import inspect
import pathlib
import re
import tomllib

import gallery
import keras
from catalog import ROWS
from docutils import nodes
from PIL import Image
from sphinx import addnodes
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform

import keras_dropouts as kd

DOCS = pathlib.Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
LAYERS, REFERENCE, TUTORIALS = (DOCS / name for name in ("layers", "reference", "tutorials"))

RANDOM = {f"random.{name}": getattr(kd.random, name) for name in kd.random.__all__}
PUBLIC = {name: getattr(kd, name) for name in kd.__all__ if name not in ("random", "__version__")} | RANDOM
ROW = {str(row): row for row in ROWS}
# What a method of ours may have from there needs no words of ours.
STOCK = {name for kind in (keras.layers.Layer, keras.layers.Wrapper) for name in dir(kind)}
INHERITED = STOCK | set(vars(kd.RandomLayer))

EQUATIONS = tomllib.loads((DOCS / "equations.toml").read_text())

HEADING = re.compile(r"^([A-Z][a-z]+(?: [a-z]+)?):$", re.MULTILINE)


def sections(text):
    """Yields a docstring's parts, each with its heading, or with none where it is prose."""
    start, heading = 0, None
    for match in [*HEADING.finditer(text), None]:
        body = text[start : match.start() if match else None]
        if heading in (None, "Example"):
            yield heading, body.strip()
        else:
            # A section ends where a line starts at the margin again.
            end = re.search(r"\n\n(?=\S)", body)
            yield heading, inspect.cleandoc(body[: end.start()] if end else body)
            if end:
                yield None, body[end.end() :].strip()
        if match:
            start, heading = match.end(), match[1]


def signature(it):
    function = it.__init__ if isinstance(it, type) else it
    parameters = inspect.signature(function).parameters.values()
    shown = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name != "self"]
    return re.sub(r" at 0x\w+", "", str(inspect.Signature(shown)))


def entries(body):
    """Returns a section of `name: what it is` as a definition list."""
    listed = re.split(r"^(?=\S)", body, flags=re.MULTILINE)[1:]
    pairs = [entry.strip().split(": ", 1) for entry in listed]
    terms = [(", ".join(f"`{name}`" for name in names.split(", ")), said) for names, said in pairs]
    return "\n\n".join(f"{term}\n: " + re.sub(r"\n *", "\n  ", said) for term, said in terms)


def described(kind, name, it, heading="##"):
    """Returns what a docstring says, in the order in which one reads it: what it is, how to write it, all details."""
    prose, api, example, reference, notes = [], [], "", "", []
    for title, body in sections(inspect.getdoc(it)):
        if title is None:
            (notes if reference or example else prose).append(body)
        elif title == "Example":
            example = f"{heading} Example\n\n```pycon\n{body}\n```"
        elif title == "Reference":
            reference = f"{heading} Source\n\n{body}"
        elif title in ("Args", "Attributes", "Call arguments", "Raises"):
            api.append(f"**{title}**\n\n{entries(body)}")
        else:
            api.append(f"**{title}**\n\n{body}")
    details = "\n\n".join(api)
    directive = f"````{{py:{kind}}} keras_dropouts.{name}{signature(it)}\n\n{details}\n````"
    notes = f"{heading} Notes\n\n" + "\n\n".join(notes) if any(notes) else ""
    return "\n\n".join(prose), [example, f"{heading} Arguments\n\n{directive}", notes, reference]


def methods(name, it):
    """Yields a directive for each public method, or property, that is the class's own."""
    for attribute, value in vars(it).items():
        value = getattr(value, "__func__", value)
        # Not `getdoc`, which finds the text of a method that is overridden.
        known = STOCK if it is kd.RandomLayer else INHERITED
        if attribute.startswith("_") or attribute in known or not value.__doc__:
            continue
        path = f"{name}.{attribute}"
        if inspect.isfunction(value):
            prose, (example, directive, *_) = described("method", path, value)
            directive = directive.partition("\n\n")[2]
            yield re.sub(r"\n\n", f"\n\n{prose}\n\n", directive, count=1) + f"\n\n{example}"
        elif isinstance(value, property):
            yield f"````{{py:property}} keras_dropouts.{path}\n\n{inspect.getdoc(value)}\n````"


def equations(name):
    """Returns the parts of a layer's page about its equations and its traps."""
    said = EQUATIONS.get(name) or EQUATIONS[re.sub(r"[123]D$", "", name)]
    inference = said.get("inference")
    of_rate = ", at the rate $p$" if re.search(r"(?<![a-zA-Z\\])p(?![a-z])", said["training"]) else ""
    lines = ["## Equation", f"In training{of_rate}:", f"$$ {said['training']} $$"]
    lines += ["with", f"$$ {said['where']} $$"] if "where" in said else []
    lines += ["At inference:", f"$$ {inference} $$"] if inference else []
    traps = "\n".join(f"- {trap}" for trap in said["traps"])
    return "\n\n".join(lines), f"## Traps\n\n{traps}"


def pictured(name):
    """Returns the pictures of an input and of what a layer makes of it, and what they show."""
    read = gallery.input_of(ROW[name])
    shown = re.sub(r" \(.*\)$", "", inspect.getdoc(read))
    shown = shown[0].lower() + shown[1:].rstrip(".")
    blue = "; blue is where the largest of a window was" if "Pooling" in name else ""
    return (
        f"![{read.__name__}]({read.__name__}.png) ![what {name} makes of it]({name}.png)\n\n"
        f"**What it drops:** {ROW[name].drops}. The first picture is {shown}. The second is what the layer makes of "
        f"that in training, at a rate of 0.3 if it takes one: orange was dropped{blue}. [All layers](../layers.md)."
    )


def page(name, it):
    kind = "class" if isinstance(it, type) else "function"
    prose, parts = described(kind, name, it)
    summary, _, definition = prose.partition("\n\n")
    picture = ""
    if name in ROW:
        picture = pictured(name)
        parts[:0] = equations(name)
    own = "\n\n".join(methods(name, it)) if kind == "class" else ""
    if own:
        parts.insert(-2, f"## Attributes and methods\n\n{own}")
    return "\n\n".join(part for part in [f"# {name}", summary, picture, definition, *parts] if part) + "\n"


def pictures():
    """Yields the panels of the gallery, which are tested to be what the layers do."""
    with Image.open(gallery.PICTURE) as picture:
        titles, sheet = picture.text["Description"].split(", "), picture.convert("RGB")
    width = gallery.MARGIN + gallery.WIDTH
    for i, title in enumerate(titles):
        row, column = divmod(i, gallery.COLUMNS)
        x, y = column * width + gallery.MARGIN, row * (gallery.TITLE + gallery.HEIGHT) + gallery.TITLE
        yield title, sheet.crop((x, y, x + gallery.WIDTH, y + gallery.HEIGHT))


def write(path, content):
    """Writes what has changed, so that Sphinx reads again only that."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != content:
        path.write_text(content)


def write_pages(app):
    for name, it in PUBLIC.items():
        if name not in RANDOM:
            write((LAYERS if name in ROW else REFERENCE) / f"{name}.md", page(name, it))
    functions = []
    for name, it in RANDOM.items():
        prose, parts = described("function", name, it, heading="###")
        functions.append("\n\n".join(part for part in [f"## {name}", prose, *parts] if part))
    module = "```{py:module} keras_dropouts.random\n```\n\n```{py:currentmodule} None\n```"
    write(REFERENCE / "random.md", "\n\n".join(["# random", module, inspect.getdoc(kd.random), *functions]) + "\n")
    for title, panel in pictures():
        panel.save(LAYERS / f"{title}.png")
    for path in NOTEBOOKS.glob("*.ipynb"):
        write(TUTORIALS / path.name, path.read_text().replace("](../docs/", "](../"))


def lead_to_tutorials(app, name, source):
    """Lets a link to a notebook, as the repository has it, lead to its page."""
    source[0] = source[0].replace("](../notebooks/", "](tutorials/")


def check_pages(app, error):
    if error or app.builder.name != "html":
        return
    described = {name for name, *_ in app.env.get_domain("py").get_objects()}
    missing = {f"keras_dropouts.{name}" for name in (*kd.__all__, *RANDOM)} - described
    if missing:
        raise ExtensionError(f"public, and on no page: {', '.join(sorted(missing))}")


class Links(SphinxTransform):
    """Makes each public name that stands in a text as code a link to its page."""

    default_priority = 500
    pattern = re.compile(r"(kd\.|keras_dropouts\.)?((?:random\.)?\w+)(\(.*)?", re.DOTALL)

    def apply(self, **kwargs):
        for literal in [*self.document.findall(nodes.literal)]:
            match = self.pattern.fullmatch(literal.astext())
            if not match or match[2] not in PUBLIC or isinstance(literal.parent, nodes.reference | nodes.title):
                continue
            if self.env.docname.endswith(f"/{match[2]}"):
                continue
            link = addnodes.pending_xref(
                "",
                literal.deepcopy(),
                refdomain="py",
                reftype="obj",
                reftarget=f"keras_dropouts.{match[2]}",
                refexplicit=True,
                refdoc=self.env.docname,
                refwarn=True,
            )
            literal.replace_self(link)


def setup(app):
    app.connect("builder-inited", write_pages)
    app.connect("source-read", lead_to_tutorials)
    app.connect("build-finished", check_pages)
    app.add_transform(Links)
    return {"parallel_read_safe": True}
