# make search   set up, build, find an architecture with EDD-DARTS on digits, train it, draw it
# make test     set up, build, check and test everything
# make docs     the site, in build/site
# make sanitize every C++ test under the sanitizers, and proof that they notice broken kernels
PYTHON ?= python3
export SNSOFTMAX_WERROR := 1
VENV := .venv
RUN := $(VENV)/bin/python
BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.ready
EXTENSION := build/.extension
CMAKE := $(BIN)/cmake
CTEST := $(BIN)/ctest
# Which PyTorch a new environment gets; the newest if empty.
TORCH_VERSION ?=
JOBS := $(shell nproc 2>/dev/null || echo 2)
SOURCES := setup.py csrc/sources.txt $(shell find csrc/kernels csrc/torch -type f)
OUT ?= runs/digits-edd

.PHONY: search test test-fast lint docs ctest sanitize sanitize-few sass fuzz bench bench-operator bench-mixture \
  bench-step bench-gpu results sdist sdist-test wheel wheel-test index manylinux \
  cross clean

search: $(EXTENSION)
	$(RUN) -m darts search --space nb201 --method edd --data digits --epochs 30 --warmup 10 \
	  --batch-size 64 --channels 8 --cells 1 --seed 0 --evaluate --out $(OUT)

# One process a core, one thread each: the tests are many and small.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist worksteal

test: lint ctest sanitize-few $(EXTENSION)
	$(PYTEST)

test-fast: lint $(EXTENSION)
	$(PYTEST) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests/csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run -Werror

# Nothing is fetched, and a warning (a dead link, a name that is gone) is an error.
docs: $(EXTENSION)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet
	@echo "build/site/index.html"

ctest: $(READY)
	$(CMAKE) -S . -B build/cmake
	$(CMAKE) --build build/cmake -j $(JOBS)
	$(CTEST) --test-dir build/cmake -j $(JOBS) --output-on-failure

# The kernels, CUDA sources included, under AddressSanitizer with UBSan and under ThreadSanitizer.
sanitize: $(READY)
	for kind in address thread; do \
	  $(CMAKE) -S . -B build/$$kind -DSNSOFTMAX_SANITIZE=$$kind && \
	  $(CMAKE) --build build/$$kind -j $(JOBS) && \
	  $(CTEST) --test-dir build/$$kind --output-on-failure || exit 1; \
	done

# A few cases of every CUDA kernel under each of them: a minute or two, so part of `test`.
sanitize-few: $(READY)
	for kind in address thread; do \
	  $(CMAKE) -S . -B build/$$kind -DSNSOFTMAX_SANITIZE=$$kind && \
	  $(CMAKE) --build build/$$kind -j $(JOBS) --target few && \
	  $(CTEST) --test-dir build/$$kind -L few --output-on-failure || exit 1; \
	done

# What nvcc made of the CUDA kernels: registers, spills, access widths. Part of `test` where nvcc is.
sass: $(READY)
	$(RUN) -m bench.sass

fuzz: $(EXTENSION)
	$(RUN) -m pytest tests/snsoftmax/test_fuzz.py --hypothesis-profile=fuzz

bench: bench-operator bench-mixture bench-step

bench-operator: $(EXTENSION)
	$(RUN) -m bench.operator

bench-mixture: $(EXTENSION)
	$(RUN) -m bench.mixture

bench-step: $(EXTENSION)
	$(RUN) -m bench.step

# docs/results.md and its pictures, from the cells of the studies run here.
results: $(EXTENSION)
	$(RUN) -m bench.reproduction

# Device tests, compute-sanitizer, benchmarks and studies on this machine's GPU: as many as there is
# time for, and the rest the next time.
MINUTES ?= inf
bench-gpu: $(READY)
	$(RUN) -m bench.gpu --minutes $(MINUTES)

# What a package index takes: the sources, with the plain version.
sdist: $(READY)
	rm -f dist/*.tar.gz
	$(RUN) -m build --sdist --no-isolation

# The operators' tests of what pip builds from that file in an empty environment; SNSOFTMAX_CUDA=0
# leaves the CUDA kernels out.
sdist-test: sdist
	rm -rf build/sdist-test; $(PYTHON) -m venv build/sdist-test; cp -r tests build/sdist-test
	set -e; cd build/sdist-test; \
	bin/python -m pip install --quiet "torch$(if $(TORCH_VERSION),==$(TORCH_VERSION),>=2.10)" numpy \
	  ninja "pybind11>=2.12" "setuptools>=77" wheel pytest pytest-xdist hypothesis; \
	bin/python -m pip install --quiet --no-build-isolation ../../dist/snsoftmax-*.tar.gz; \
	OMP_NUM_THREADS=1 bin/python -m pytest -n $(JOBS) tests/snsoftmax \
	  --ignore tests/snsoftmax/test_build.py
	rm -rf build/sdist-test

# A wheel in dist/ for the PyTorch of $(VENV), or for each release in TORCH="2.13.0 2.14.1", built
# against that release; with the CUDA kernels where nvcc and that PyTorch's CUDA agree.
# build/lib.* goes first: modules that are no longer there would be packed with the rest.
wheel: $(READY)
ifndef TORCH
	rm -rf build/lib.*
	$(RUN) -m build --wheel --no-isolation
endif
	set -e; for release in $(TORCH); do \
	  rm -rf build/lib.*; \
	  mkdir -p build; echo "torch==$$release" > build/constraint.txt; \
	  PIP_CONSTRAINT=$(abspath build/constraint.txt) $(RUN) -m build --wheel; \
	done

# A package index of what is in dist/, in build/index, for any web server; PACKAGES where the files
# themselves lie elsewhere.
PACKAGES ?= ../../packages
index: $(READY)
	mkdir -p build/index/packages
	find dist -name '*.whl' -o -name '*.tar.gz' | xargs cp -t build/index/packages
	ls build/index/packages > build/packages.txt
	$(BIN)/dumb-pypi --package-list build/packages.txt --packages-url $(PACKAGES) \
	  --output-dir build/index --title snsoftmax
	@echo "build/index/simple/"

# For older systems: the C library of this machine decides which. PyTorch's and CUDA's libraries stay out.
manylinux: $(READY)
	$(BIN)/auditwheel repair --plat auto --wheel-dir dist/manylinux --exclude 'libtorch*' \
	  --exclude 'libc10*' --exclude 'libcudart*' --exclude 'libgomp*' dist/*.whl

# The operators' tests from each of those wheels, away from the sources. The wheel comes without what
# only darts needs.
wheel-test: wheel
	set -e; for release in $(TORCH); do \
	  rm -rf build/wheel-test; $(PYTHON) -m venv build/wheel-test; cp -r tests build/wheel-test; \
	  (cd build/wheel-test; \
	  bin/python -m pip install --quiet "torch==$$release" numpy pytest pytest-xdist hypothesis; \
	  bin/python -m pip install --quiet --no-deps ../../dist/snsoftmax-*+torch$${release%.*}*.whl; \
	  OMP_NUM_THREADS=1 bin/python -m pytest -n $(JOBS) tests/snsoftmax \
	    --ignore tests/snsoftmax/test_build.py); \
	  rm -rf build/wheel-test; \
	done

# The extension with CUDA for another machine's Python and PyTorch, PYTHON=3.12 TORCH=2.11.0, in a folder
# of build/cross: to be carried there as it is, where bench.gpu finds it. Copied into snsoftmax/ it
# serves a checkout of these sources. TORCH_CUDA_ARCH_LIST says for which GPUs.
CROSS = build/cross/python$(PYTHON)-torch$(TORCH)
cross: export TORCH_CUDA_ARCH_LIST ?= 9.0
cross: export SNSOFTMAX_CUDA := 1
cross:
	set -e; \
	python=$$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(PYTHON)*/bin/python 2>/dev/null | tail -n 1); \
	python=$${python:-$$(command -v python$(PYTHON))} || \
	  { echo "make cross: there is no Python $(PYTHON), neither pyenv's nor on PATH." >&2; exit 1; }; \
	test -n "$(TORCH)" || { echo "make cross: name a release, TORCH=2.11.0." >&2; exit 1; }; \
	test -x $(CROSS)/venv/bin/python || $$python -m venv $(CROSS)/venv; \
	$(CROSS)/venv/bin/python -m pip install --quiet "torch==$(TORCH)" numpy ninja "pybind11>=2.12" \
	  "setuptools>=77" wheel; \
	$(CROSS)/venv/bin/python setup.py --quiet build_ext --build-temp $(CROSS)/objects \
	  --build-lib $(CROSS); \
	ls $(CROSS)/snsoftmax

# The environment: PyTorch first, since the build compiles against it. CUDA code is for this machine's
# GPUs, or for one kind where there is none; wheels have it for all.
ARCHITECTURES := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u | paste -sd ';')
$(READY) $(EXTENSION): export TORCH_CUDA_ARCH_LIST ?= $(or $(ARCHITECTURES),9.0)
$(READY): pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip "setuptools>=77" wheel build
	$(RUN) -m pip install --quiet "torch$(if $(TORCH_VERSION),==$(TORCH_VERSION),>=2.10)" torchvision numpy ninja "pybind11>=2.12"
	$(RUN) -m pip install --no-build-isolation --config-settings editable_mode=compat -e ".[dev]"
	touch $(READY)

# The installation above has built it already; later it is rebuilt where a source is newer.
$(EXTENSION): $(READY) $(SOURCES)
	@set -- snsoftmax/_C*.so; \
	if [ ! -e "$$1" ] || [ -n "$$(find $(SOURCES) -newer "$$1")" ]; then \
	  $(RUN) setup.py build_ext --inplace; \
	fi
	mkdir -p build && touch $(EXTENSION)

clean:
	rm -rf build dist *.egg-info snsoftmax/*.so snsoftmax/_built_for.json
