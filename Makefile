# An activated conda or virtual environment is used as it is; without one, .venv is made.
ifneq (,$(or $(VIRTUAL_ENV),$(CONDA_PREFIX)))
PY := python
READY := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))/.accel-ready
BOOT := python
else
PY := .venv/bin/python
READY := .venv/.accel-ready
BOOT := python3
endif
OWNER ?= OWNER
SEEDS ?= 100
REQUESTS ?= 20000
# The GPU user's environment brings its own FAISS (environment.yml); everyone else gets the CPU one.
FAISS := $(if $(CONDA_PREFIX),$(shell python -c "import importlib.metadata as m; m.version('faiss-gpu')" >/dev/null 2>&1 && echo gpu || echo cpu),cpu)

.PHONY: demo app test conformance faults live campaign mutants lint kernels install clean help
help:
	@echo "make demo         the main job, end to end: no account, no GPU"
	@echo "make app          the question page in a browser"
	@echo "make test         the tests, two at a time (14 minutes on 2 slow cores)"
	@echo "make conformance  slower: vendors' own clients, test collections"
	@echo "make faults       every fault and kill -9 at every cloud, a week, a corpus (an hour)"
	@echo "make live         one real job: PROVIDER=name LIMIT=dollars, with your key"
	@echo "make campaign     the simulation, longer: SEEDS=100 REQUESTS=20000"
	@echo "make mutants      breaks the code on purpose; writes docs/promises.md (10 minutes)"
	@echo "make lint         ruff, mypy, the import contract"
	@echo "make kernels OWNER=name   kaggle_kernels/ ready for the official Kaggle command line"

demo: $(READY)
	@$(PY) -m accel demo $(if $(FULL),--full)

app: $(READY)
	@$(PY) gradio_app.py

# Two at a time: most tests wait for processes and servers of their own.
test: $(READY)
	@$(PY) -m pytest -q -n 2 --dist worksteal

conformance: $(READY)
	@$(PY) -m pytest -q -m conformance

faults: $(READY)
	@$(PY) -m pytest -q -m faults

# The one place where a test may leave loopback, and spend: only with a key and a limit in dollars.
live: $(READY)
	@ACCEL_LIVE_PROVIDER=$(PROVIDER) ACCEL_LIVE_LIMIT=$(LIMIT) $(PY) -m pytest -rs -m live --force-enable-socket

campaign: $(READY)
	@$(PY) -m accel simulate --seeds $(SEEDS) --requests $(REQUESTS)

mutants: $(READY)
	@PYTHONPATH=tests $(PY) -m mutants

lint: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -c "from importlinter.cli import lint_imports_command as run; run()"

kernels: $(READY)
	@$(PY) -m accel.experiments.kernels --owner $(OWNER) --out build/kernels

install: $(READY)

# torch goes in first and pinned: with none present, a range takes the newest CUDA build, several GB.
$(READY): pyproject.toml
	@test -n "$(VIRTUAL_ENV)$(CONDA_PREFIX)" || test -x .venv/bin/python || $(BOOT) -m venv .venv
	@echo "installing what accel needs (some minutes, once) ..."
	@$(PY) -c "import importlib.util as u; raise SystemExit(u.find_spec('torch') is None)" || $(PY) -m pip install -q --disable-pip-version-check torch==2.13.0
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[$(FAISS),kaggle,colab,vast,modal,dev]'
	@touch $@

clean:
	rm -rf .venv .venv-conformance build .pytest_cache .mypy_cache .ruff_cache
