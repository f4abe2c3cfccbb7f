# The manual: `make demo` shows the product, `make test` runs everything that CI runs.
# Both make their own .venv first; nothing outside this folder is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-

.PHONY: demo test fmt lint types imports unit bench soak clean

demo: $(INSTALLED)demo  ## run the daemon on two simulated cameras and write a shift report
	$(BIN)/zsad demo

test: lint types imports unit  ## everything that CI runs

fmt: $(INSTALLED)dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(INSTALLED)dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)dev
	$(BIN)/mypy

imports: $(INSTALLED)dev
	$(BIN)/lint-imports

# Two processes with one computing thread each: torch's own threads in both would fight.
unit: $(INSTALLED)dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder

bench: $(INSTALLED)dev  ## measured claims, each as a ratio to a floor in the same run
	$(BIN)/pytest -m benchmark -s tests/benchmarks

soak: $(INSTALLED)dev  ## kill, flood and starve the daemon for a long time; nothing may be lost
	$(BIN)/pytest -m soak -s

clean:
	rm -rf $(VENV) build *.egg-info var

$(INSTALLED)%: pyproject.toml constraints.txt | $(VENV)
	@echo "Installing zsad[$*] into $(VENV): PyTorch is about 6 GB on disk, some minutes the first time."
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch $@

$(VENV):
	$(PYTHON) -m venv $(VENV)
