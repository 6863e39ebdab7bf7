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
# Triton comes with PyTorch's builds for GPUs; its kernels are tested without one.
torch := torch==2.13.0 'triton; sys_platform == "linux"' --editable .[torch]

.PHONY: compare test test-all test-oldest bench bench-all papers lint

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

bench: .venv/$(KERAS_BACKEND) .venv/bench
	.venv/bin/python benchmarks $(ARGS)

bench-all:
	$(MAKE) bench KERAS_BACKEND=tensorflow
	$(MAKE) bench KERAS_BACKEND=jax
	$(MAKE) bench KERAS_BACKEND=torch

papers: .venv/$(KERAS_BACKEND)
	.venv/bin/python -m papers $(ARGS)

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
