# Needs Python 3.11 or newer and nothing else. `make PYTHON=python3.12 test` takes another one.

PYTHON ?= python3
BIN := .venv/bin
# Of 12,000 files a third is ever imported, and compiled then; pip would take most of a minute for all.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c .ci/constraints.txt
SET_UP := .venv/.set-up
RIVALS := build/rivals
JUDGES := build/judges

.DEFAULT_GOAL := help
.PHONY: help demo test check test-long test-kills test-slurm test-ray test-newest test-pages test-kubernetes test-gpu bench bench-gpu \
	needs-gpu rivals judges clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r target text; do printf '  make %-17s%s\n' "$$target" "$$text"; done

demo: $(SET_UP) ## watch drawn videos, write their caches, answer questions with the bundled model
	@$(BIN)/batch demo

test: check ## set up .venv and run every check

# Types are checked beside the tests. Two workers of neighbouring tests, as fixtures are shared by
# neighbours; who ends first takes over half of what the other has left.
check: $(SET_UP) ## formatting, lint, types, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy & types=$$!; $(BIN)/pytest --numprocesses logical --dist worksteal; tests=$$?; \
		wait $$types && exit $$tests

test-long: $(SET_UP) ## the tests that take minutes: whole benches, random kills, every Triton case
	$(BIN)/pytest -m long

test-kills: $(SET_UP) ## kill an index run 100 times at random moments and compare what comes out
	$(BIN)/python -m tests.end_to_end.kills --times 100

test-slurm: $(SET_UP) ## index on a Slurm of one node; as root, installs Debian's slurm-wlm and munge
	@command -v slurmctld > /dev/null && command -v munged > /dev/null || \
		{ apt-get update -qq && apt-get install -y --no-install-recommends slurm-wlm munge; }
	$(BIN)/pytest tests/clusters/check_slurm.py

# Ray and the schemas lie apart from what the tests need, and warn of themselves.
test-ray: $(SET_UP) ## index on a Ray cluster that loses a node; installs ray (400 MB) in .venv/ray
	@$(PIP) --target .venv/ray --upgrade ray
	PYTHONPATH=$(CURDIR)/.venv/ray:$(CURDIR) $(BIN)/pytest -W ignore tests/clusters/check_ray.py

# As somebody installs it who has no clone, and then all tests; what warns of itself fails.
test-newest: $(SET_UP) ## the newest versions that pyproject.toml allows, in .venv/newest (gigabytes: torch with CUDA)
	@$(PYTHON) -m venv --clear .venv/newest
	@.venv/newest/bin/python -m pip install --quiet --disable-pip-version-check .
	@cd / && $(CURDIR)/.venv/newest/bin/batch demo 2> $(CURDIR)/.venv/newest/said && \
		! grep -i warn $(CURDIR)/.venv/newest/said
	@.venv/newest/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	.venv/newest/bin/python -m pytest

test-pages: $(SET_UP) ## click through pages in Chromium, where there is one; as root, installs Debian's
	@command -v chromium chromium-browser google-chrome > /dev/null || test $$(id -u) -ne 0 || \
		{ apt-get update -qq && apt-get install -y --no-install-recommends chromium; }
	$(BIN)/pytest tests/pages/check_pages.py

test-kubernetes: $(SET_UP) ## manifests against the schemas of Kubernetes, installed in .venv/kubernetes
	@$(PIP) --target .venv/kubernetes --upgrade kubernetes-validate
	PYTHONPATH=$(CURDIR)/.venv/kubernetes $(BIN)/python -m kubernetes_validate --strict \
		jobs/kubernetes/*.yaml

test-gpu: needs-gpu ## the tests that need CUDA, every Triton case compiled among them
	FAIL_WITHOUT_GPU=1 $(BIN)/pytest -m needs_gpu

bench: $(SET_UP) ## measure time, size and agreement on this machine
	@$(BIN)/batch bench

bench-gpu: needs-gpu ## measure a GPU with decoders of half a billion and seven billion weights
	@$(BIN)/batch bench --device cuda --size 0.5b --size 7b

needs-gpu: $(SET_UP)
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("no GPU here: torch %s sees no CUDA device" % torch.__version__)'

# FILMS chooses others, as batch evaluate does: make rivals FILMS="--data demo:long --videos 60".
rivals: $(SET_UP) $(RIVALS)/kvpress/.set-up $(RIVALS)/quantized/.set-up ## answers of other tools' caches, for batch evaluate --rows
	@$(BIN)/python -m batch.evaluation.export_films --out $(RIVALS)/asked $(FILMS)
	@$(RIVALS)/kvpress/bin/python -m batch.evaluation.rivals.presses batch/models/demo $(RIVALS)/asked $(RIVALS)/kvpress.jsonl
	@$(RIVALS)/quantized/bin/python -m batch.evaluation.rivals.quantized batch/models/demo $(RIVALS)/asked $(RIVALS)/quantized.jsonl

# What reads the packages' files lies apart; once they are converted nothing needs it.
judges: $(SET_UP) $(JUDGES)/readers $(JUDGES)/quantizers ## real weights for batch evaluate --judge prose and seeing: 200 MB fetched, 690 MB kept
	@TQDM_DISABLE=1 PYTHONPATH=$(JUDGES)/readers $(BIN)/python -m batch.evaluation.judges.fetching
	@TQDM_DISABLE=1 PYTHONPATH=$(JUDGES)/readers $(BIN)/python -m batch.evaluation.judges.seeing \
		$(addprefix --adapter ,$(wildcard batch/evaluation/judges/seeing.safetensors))

clean: ## remove .venv, tool caches and build outputs; nothing else
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find batch cachefmt jobs tests -type d -name __pycache__ -prune -exec rm -rf {} +

# torch first and by itself, so that its build is chosen by the pinned version alone. torchvision
# is for tests/models/reference.py, which says why it lies apart.
$(SET_UP): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("sali-cache needs Python 3.11 or newer, got " + sys.version)'
	@echo "setting up .venv, once: 2 to 10 minutes, about 1 GB to fetch and 3 GB on disk" >&2
	@$(PYTHON) -m venv .venv
	@echo "  torch ..." >&2
	@$(PIP) torch==2.13.0
	@echo "  sali-cache, and what it and its tests need ..." >&2
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps --target .venv/torchvision --upgrade torchvision==0.28.0
	@touch $@

$(RIVALS)/%/.set-up: batch/evaluation/rivals/%.txt
	@echo "setting up $(@D) (minutes, once)" >&2
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -r $<
	@touch $@

$(JUDGES)/readers: .ci/constraints.txt
	@$(PIP) --no-deps --target $@ --upgrade gguf onnx ml_dtypes protobuf
	@touch $@

# transformers' QuantizedCache asks for them; what they need beside it has the product already.
$(JUDGES)/quantizers: batch/evaluation/rivals/quantized.txt
	@$(PIP) --no-deps --target $@ --upgrade termcolor \
		$(shell grep -E '^(hqq|optimum)' $<)
	@touch $@
