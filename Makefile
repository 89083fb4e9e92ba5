# Two commands do everything: `make book` and `make test`. Each makes the environment first if need be.
PYTHON ?= python3
SCALE ?= smoke
SEED ?= 1
SOLUTIONS ?= shown
BIN := .venv/bin
STAMP := .venv/made-from-constraints

# One thread a process: two processes at once use two cores better than one process with two threads.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= agg

.DEFAULT_GOAL := help
.PHONY: help env book pdf test lowest bench lint browser clean

help:  ## print every verb with a sentence
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP)  ## make the environment in .venv, with the exact versions of constraints.txt

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"flatlib needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]'
	@touch $@

book: $(STAMP)  ## run the notebooks (SCALE=smoke, laptop or paper; SEED=1; SOLUTIONS=withheld) and build the site
	@$(BIN)/python book/_tools/build.py --scale $(SCALE) --seed $(SEED) $(if $(filter withheld,$(SOLUTIONS)),--without-solutions)

pdf: $(STAMP)  ## make one document for print of the site that make book built (needs Chromium)
	@$(BIN)/python book/_tools/pdf.py

browser:  ## install Chromium for the site's tests, where that needs no question
	@sh book/_tools/browser.sh

test: $(STAMP) browser  ## run the whole suite, the notebooks and the site included
	@$(MAKE) --no-print-directory book
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal --quiet

# What measures networks, tested where the laboratory's packages are absent.
MEASURING := bounds cancellation checks chosen_layers comparisons embeddings gap geometry lanczos layers \
	matrix_free mixed_rows nets private_copy record_of_a_measurement representations sharpness streaming toys traces

lowest:  ## test the measuring library alone, with the lowest versions of PyTorch, NumPy and SciPy
	@test -x .lowest/bin/python || $(PYTHON) -m venv .lowest
	.lowest/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-lowest.txt '.[progress]' pytest hypothesis
	@.lowest/bin/python -m pytest --quiet tests/derivatives $(MEASURING:%=tests/test_%.py)

bench: $(STAMP)  ## time flatlib against the naive way, other libraries and the floor
	@$(BIN)/python -m benchmarks

lint: $(STAMP)  ## ruff, and a refusal of committed notebook outputs
	@$(BIN)/ruff check .
	@$(BIN)/python book/_tools/refuse_outputs.py notebooks

clean:  ## remove the site and every cached notebook run; the environment stays
	rm -rf book/_build book/_generated book/_vendor book/chapters
