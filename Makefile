# Two commands: `make demo` runs the main job, `make test` passes the tests. Both set up .venv first.
.DEFAULT_GOAL := help
.PHONY: help venv demo geoclip locate ablations docs test test-browser test-slow test-wheel check format clean rehearse bench-augmentation bench-bundle
.PHONY: bench-costs bench-embed bench-fusion bench-gallery bench-geoclip bench-gpu bench-partition bench-refit bench-refit-scale
.PHONY: bench-reranker bench-run bench-search bench-serve bench-small-refit bench-start bench-trust

PYTHON ?= python3
CLIP ?=# of `make geoclip`: a folder with openai/clip-vit-large-patch14, where the hub cannot be reached
PHOTO ?=# of `make locate`: the photo to place
FAISS ?= cpu# cpu or gpu: which of the two FAISS packages to install

BIN := .venv/bin
READY := .venv/.ready-$(FAISS)

help:  ## Say what the targets do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

venv: $(READY)  ## Set up .venv with everything, once

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5) and "GeoSURGE needs Python 3.11.5 or newer; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first: alone, pip takes a CPU build where one is offered; later packages would ask for the largest one.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(FAISS),dev]'
	# Without what it asks for: torchvision, whose builds on the package index need CUDA and break transformers without.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps geoclip
	@rm -f .venv/.ready-*
	@touch $@

demo: venv  ## Run the main job on the embedded world and write out/demo/report.html
	$(BIN)/python -m benchmarks.world.demo

GEOCLIP := out/geoclip

geoclip: $(GEOCLIP)/registry/current  ## Take over GeoCLIP into out/geoclip, nothing trained: CLIP (1.7 GB) comes from the hub, or CLIP=folder

$(GEOCLIP)/registry/current: | $(READY)
	$(BIN)/python -m training adopt geoclip --out $(GEOCLIP)/model --registry $(GEOCLIP)/registry $(if $(CLIP),--clip '$(CLIP)')

locate:  ## Say where PHOTO=path.jpg was taken, by GeoCLIP, and write out/geoclip/answer.html
	@test -n '$(PHOTO)' || { echo 'Which photo? make locate PHOTO=path.jpg' >&2; exit 2; }
	@$(MAKE) --no-print-directory geoclip
	@rm -f $(GEOCLIP)/answer.html
	$(BIN)/python -m search query --registry $(GEOCLIP)/registry --checkpoint $(GEOCLIP)/model/checkpoint --html $(GEOCLIP)/answer.html '$(PHOTO)'
	@echo '$(GEOCLIP)/answer.html'

ablations: venv  ## The method without its parts, and other methods, beside the paper's tables: an hour, resumable
	$(BIN)/python -m benchmarks.world.ablations

rehearse: venv  ## The commands of the paper's configuration, configs/mp16.yaml, on a miniature of MP-16: ten minutes
	$(BIN)/python -m benchmarks.world.rehearsal

test: venv  ## Fast tests, a few minutes on two cores
	# A process for each core, with one thread. Files go to processes in the order of tests/conftest.py, the longest first.
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser" --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-browser: venv  ## The service's page in Chromium, which must be installed; screenshots in out/browser
	$(BIN)/python -m pytest -m browser tests/search/service/test_browser.py

test-slow: venv  ## Kill counts, soak, several processes
	# Two processes: those who wait for a cluster, or for something to be killed, leave a core to others.
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-wheel: venv  ## The built wheel in an environment of its own: each module and command, one query from Python
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m tests.wheel_check build/wheel/*.whl

check: venv  ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench-augmentation: venv  ## Random crops and mirror images in training, by one crop and by ten: half an hour
	$(BIN)/python -m benchmarks.world.augmentation_arms

bench-bundle: venv  ## Building and opening a bundle with each kind of leaf index
	$(BIN)/python -m benchmarks.bundle

bench-costs: venv  ## What MP-16 and 100 million photos cost at each step, as arithmetic on what was measured
	$(BIN)/python -m benchmarks.costs

bench-embed: venv  ## From JPEG files to vectors, beside the model alone and a plain loop
	$(BIN)/python -m benchmarks.embed

bench-fusion: venv  ## Kinds of semantic fusion on the embedded world, with shuffled maps and a map alone: an hour
	$(BIN)/python -m benchmarks.world.fusion_arms

bench-gallery: venv  ## Answers by photos of known places beside FAISS, 4.7 million of them: 12 GB on disk, 8 GB of memory
	$(BIN)/python -m benchmarks.gallery

bench-geoclip: venv  ## GeoCLIP as it was taken over beside its own package: the same answers, and their cost: ten minutes
	$(BIN)/python -m benchmarks.geoclip

bench-gpu: venv  ## What only a machine with a GPU can show: rates, shares of its peak, agreement with the CPU
	$(BIN)/python -m benchmarks.gpu

bench-partition: venv  ## Time and memory of dividing up to 47 million photos, beside s2sphere
	$(BIN)/python -m benchmarks.partition

bench-refit: venv  ## A new partition by refit, beside training from scratch on it: a quarter of an hour
	$(BIN)/python -m benchmarks.world.refit

bench-refit-scale: venv  ## Time and memory of refitting millions of photos, by the slope from fewer: a quarter of an hour
	$(BIN)/python -m benchmarks.refit_scale

bench-serve: venv  ## The service beside the engine, the encoder and a plain handler; swaps and memory: six minutes
	$(BIN)/python -m benchmarks.serve

bench-run: venv  ## Offline jobs beside the search and the encoder alone, a plain script, and Ray; memory and start
	$(BIN)/python -m benchmarks.run

bench-search: venv  ## Searching exactly, by a beam and adaptively, beside the plain ways: a quarter of an hour, 5 GB
	$(BIN)/python -m benchmarks.search

bench-reranker: venv  ## Answers with a reranker beside those without: a few minutes, after `make demo`
	$(BIN)/python -m benchmarks.reranker

bench-small-refit: venv  ## Refits of few photos beside the means that they begin with: a few minutes
	$(BIN)/python -m benchmarks.small_refit

bench-start: venv  ## Geocell vectors that begin with length 1, and with 28: a minute
	$(BIN)/python -m benchmarks.geocell_start

bench-trust: venv  ## Whether probabilities and radii are true, and where answers should point, after `make demo`
	$(BIN)/python -m benchmarks.world.trust

docs: venv  ## The site, out/docs/index.html: README, docs/ and a reference of the Python API; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -q -c docs -d out/docs-cache . out/docs

format: venv  ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove what the demo and the tools wrote; .venv stays
	rm -rf out .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
