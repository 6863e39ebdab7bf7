PYTHON ?= python3
KERAS_BACKEND ?= tensorflow
export KERAS_BACKEND

# The small build where there is one; `pip install keras-dropouts[tensorflow]` takes the usual one.
ifeq ($(shell uname -sm),Linux x86_64)
tensorflow := tensorflow-cpu
else
tensorflow := tensorflow
endif
jax := jax
# The release that everything is run on; 2.14 and 2.15 have not been tried. Triton comes with PyTorch's builds for GPUs; its
# kernels are tested without one.
torch := torch==2.13.0 'triton; sys_platform == "linux"' --editable .[torch]
docs := --editable .[docs]

.PHONY: compare test test-all test-oldest fuzz bench bench-all papers docs wheel lint

compare: .venv/tensorflow
	.venv/bin/python -m keras_dropouts compare $(ARGS)

test: .venv/$(KERAS_BACKEND)
	.venv/bin/python -m pytest -q -n 2 --dist worksteal $(ARGS)

test-all:
	$(MAKE) test KERAS_BACKEND=tensorflow
	$(MAKE) test KERAS_BACKEND=jax
	$(MAKE) test KERAS_BACKEND=torch

# The core of the suite on the oldest Keras that is allowed, and the backend that is the quickest to install and run.
oldest := $(shell sed -n 's/.*"keras>=\([0-9.]*\)".*/\1/p' pyproject.toml)
core := laws random random_state checkpointing surgery always_on monte_carlo keras_internals

test-oldest: .venv-oldest/torch
	KERAS_BACKEND=torch .venv-oldest/bin/python -m pytest -q -n 2 --dist worksteal $(core:%=tests/test_%.py) $(ARGS)

# Random cases by the thousand, where the tests try a few.
fuzz: .venv/$(KERAS_BACKEND)
	KERAS_DROPOUTS_CASES=10000 .venv/bin/python -m pytest -q -n 2 tests/test_random_cases.py $(ARGS)

bench: .venv/$(KERAS_BACKEND) .venv/bench
	.venv/bin/python benchmarks $(ARGS)

bench-all:
	$(MAKE) bench KERAS_BACKEND=tensorflow
	$(MAKE) bench KERAS_BACKEND=jax
	$(MAKE) bench KERAS_BACKEND=torch

papers: .venv/$(KERAS_BACKEND)
	.venv/bin/python -m papers $(ARGS)

# Into docs/_build/html, to be opened as a file. Notebooks run once, for minutes: `ARGS="-D nb_execution_mode=off"` leaves
# their outputs out.
docs: .venv/docs
	.venv/bin/python -m sphinx --quiet --fail-on-warning $(ARGS) docs docs/_build/html

# What would be published: built, installed where nothing else is, and the first example of README run from it.
wheel:
	rm -rf dist .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet build
	.venv-wheel/bin/python -m build --outdir dist
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/pip install --quiet $(tensorflow) "$$(echo dist/*.whl)[compare]"
	awk '/^```python$$/ {on = 1; next} /^```$$/ && on {exit} on' README.md > dist/first_example.py
	cd dist && KERAS_BACKEND=tensorflow ../.venv-wheel/bin/python first_example.py

lint: .venv/tensorflow
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# TensorFlow comes first: saving for serving needs it on JAX too.
.venv/tensorflow: pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet $(tensorflow) --editable .[test]
	touch $@

.venv/%: .venv/tensorflow
	.venv/bin/pip install --quiet $($*)
	touch $@

.venv-oldest/torch: pyproject.toml
	test -d .venv-oldest || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet 'keras==$(oldest).*' $(torch) pytest pytest-xdist scipy
	touch $@

# After PyTorch, which the peers would otherwise choose themselves.
.venv/bench: .venv/torch
	.venv/bin/pip install --quiet --editable .[bench]
	touch $@
