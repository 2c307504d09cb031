# `make demo` records a rollout of the embedded world, `make test` runs the tests, `make test-fast` those of a minute or two.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On Linux, glibc hands large tensors back to the system after every operation; keeping them is up to 2x faster.
export MALLOC_TRIM_THRESHOLD_ := 8000000000
export MALLOC_MMAP_THRESHOLD_ := 8000000000

.PHONY: demo test test-fast test-rllib lint types first-hour lerobot clean

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/wm-env record --overwrite --out demo/demo.mp4 --context turn --policy wander --steps 60 --compare --overlay
	$(BIN)/wm-env record --overwrite --out demo/one_picture.mp4 --policy wander --steps 60 --compare --overlay
	@echo "Watch demo/demo.mp4 (left: the learned world, shown a full turn before; right: the true scene) and"
	@echo "demo/one_picture.mp4 (shown the first picture alone); the .png beside each is its contact sheet."

# Two processes of one thread, a file in one of them: twice as fast on two cores. WORKERS=0 is one process.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test: $(VENV)/.installed-dev
	$(PYTEST)

test-fast: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

# Twenty things that a newcomer does, in an empty folder; .ci/readme does them in a fresh clone.
first-hour: $(VENV)/.installed-dev
	$(BIN)/python tests/first_hour/first_hour.py

# RLlib in an environment of its own, for it pins Gymnasium 1.2.2: what every world promises, and a few PPO iterations.
test-rllib:
	mkdir -p build
	$(PYTHON) -m venv build/rllib
	build/rllib/bin/pip install --quiet --disable-pip-version-check "ray[rllib]==2.60.0" pytest hypothesis .
	OMP_NUM_THREADS=1 build/rllib/bin/python -m pytest tests/contract tests/wm_env/test_env.py tests/wm_env/test_vector.py
	build/rllib/bin/python tests/first_hour/rllib_trains.py

# LeRobot's own reader on an export, in an environment of its own: it pins another torch, 8 GB with CUDA. Not in CI.
lerobot: $(VENV)/.installed-dev
	rm -rf build/lerobot-set build/lerobot-set-episodes
	mkdir -p build
	$(BIN)/wm-env record --format lerobot --world twin --episodes 2 --steps 8 --out build/lerobot-set
	$(PYTHON) -m venv build/lerobot
	build/lerobot/bin/pip install --quiet --disable-pip-version-check "lerobot>=0.4"
	build/lerobot/bin/python tests/first_hour/lerobot_reads.py build/lerobot-set

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers do not follow the folder mapping of pyproject.toml, so they look at an installed copy.
types: $(VENV)/.installed-dev
	rm -rf build/typed build/lib  # the second keeps files that are gone
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/typed .
	cd build/typed && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p wm_env

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build demo
