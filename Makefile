# The two commands of the README are `make run` and `make test`; everything else is for people who change the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that run tests; 0 runs them in this one, as a debugger wants it.
WORKERS ?= auto

.PHONY: run test check lint lock bench kubernetes-check image image-check sbom compose-up compose-down release-check clean help
.DEFAULT_GOAL := help

help:  ## what can be typed here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 18

run: $(VENV)/.run  ## start everything on this machine: database, migrations, key, policies, service
	@exec $(BIN)/mfw dev

test: $(VENV)/.dev  ## the whole test suite on every core, on a real PostgreSQL that comes with the virtual environment
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(VENV)/.dev  ## the rules of the house: ruff, mypy --strict, import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

kubernetes-check: $(VENV)/.dev  ## docs/install.md told on a real API server of this machine: an agent is denied, then all of it is gone
	@$(BIN)/python -m tests.kubernetes.check

bench: $(VENV)/.dev  ## the figures of bench/README.md, measured side by side on this machine
	@$(BIN)/python -m bench

lock: $(VENV)/.dev  ## re-pin requirements/*.lock from requirements/*.in; newer ones with ARGS=--upgrade
	@cd requirements && for name in dev run grpc mcp models go; do \
	  case $$name in dev|go) also=;; run) also="-c dev.lock";; *) also="run.in -c dev.lock";; esac; \
	  ../$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --python-version 3.11 --custom-compile-command "make lock" $(ARGS) $$name.in $$also -o $$name.lock || exit 1; done

release-check: $(VENV)/.dev  ## whether this commit can be released, and what to type where not
	@export PATH="$$PATH:$(CURDIR)/build/go/go/bin" \
	  && PATH="$$(bash tests/helm/tools/build):$(CURDIR)/$(BIN):$$PATH" $(BIN)/python release/check.py $(ARGS)

IMAGE ?= mutation-firewall/mutation-firewall:$(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
image:  ## the image of the service, and how large it is: docker, podman or buildah, whichever is there
	@bash image/build $(IMAGE)

sbom: image  ## build/sbom.cdx.json: what is in that image, as CycloneDX
	@mkdir -p build && $${ENGINE:-docker} run --rm --entrypoint cat $(IMAGE) sbom.cdx.json > build/sbom.cdx.json

image-check: $(VENV)/.dev  ## builds the image and runs it as a cluster does; needs Docker, or root and dockerd
	@MFW_IMAGE_CHECK=1 $(BIN)/python -m pytest -n 0 tests/image $(ARGS)

compose-up:  ## a trial on a laptop with Docker: service, PostgreSQL, Redis, Prometheus, Alertmanager, Grafana
	@bash compose/up

compose-down:  ## ends it and keeps its data; `make compose-down ARGS=--volumes` does not
	@docker compose down $(ARGS)

clean:  ## forget the virtual environment (the embedded database stays: `mfw dev --help` says where)
	rm -rf $(VENV)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "This Python cannot create virtual environments; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.run: requirements/run.lock pyproject.toml | $(VENV)/.python
	@test -e $(VENV)/.dev || $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/.python
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@ $(VENV)/.run
