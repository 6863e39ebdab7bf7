"""Equations as MathML, made while the site is built: browsers draw it without a script."""

from docutils import nodes
from latex2mathml.converter import convert


def visit_math(translator, node):
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    translator.body.append(f'<div class="equation">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True}
