"""Equations as MathML, made while the site is built: browsers draw it without a script."""

from docutils import nodes
from latex2mathml.converter import convert


def visit_math(translator, node):
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    # Formulas that stand apart stand below each other where there is no room.
    formulas = [convert(part, display="block") for part in node.astext().split(r"\qquad")]
    translator.body.append(f'<div class="equation">{"".join(formulas)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True}
