PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install quickstart test test-browser test-schema test-vllm lint bench-opd gpu

install: $(STAMP)

# torch is installed first: its pinned version resolves to a CPU build if the index has one.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,quickstart]'
	touch $(STAMP)

quickstart: install
	$(BIN)/arkasr run recipes/quickstart.yaml --output runs/quickstart --resume

test: install lint
	$(BIN)/python -m pytest -m 'not slow and not vllm and not browser and not schema'

# The server's page in Debian's Chromium (apt install chromium).
test-browser: install
	$(BIN)/pip install --quiet --disable-pip-version-check playwright
	$(BIN)/python -m pytest -m browser

# Random requests to the server. Schemathesis has its own environment, because it pins what others use, too.
SCHEMA := .venv-schema
test-schema: install
	test -x $(SCHEMA)/bin/schemathesis || ($(PYTHON) -m venv $(SCHEMA) && $(SCHEMA)/bin/pip install --quiet schemathesis)
	PATH=$(SCHEMA)/bin:$$PATH $(BIN)/python -m pytest -m schema

# Tests that need vLLM run in their own environment, because vLLM's CPU build pins other versions. One thread each for
# server and trainer, because they share the cores.
VLLM := .venv-vllm
test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m vllm

$(VLLM)/.installed: pyproject.toml constraints.txt tests/install_vllm.sh
	PYTHON=$(PYTHON) sh tests/install_vllm.sh $(VLLM)
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# DEVICE=cuda measures a GPU. benchmarks.rollouts runs only if the student of benchmarks/rollouts.yaml has been trained.
DEVICE ?= cpu
STUDENT := runs/rollouts/stages/words/model
ifeq ($(DEVICE),cuda)
  FULL_SIZE := --precision bf16 --teacher qwen3-asr-1.7b --vocabulary 151936 --utterances 32 --seconds 10 --tokens 40
  HEADS := --precision bf16
else
  FULL_SIZE := --vocabulary 163958 --utterances 2 --seconds 6 --tokens 40 --repeats 5
endif
bench-opd: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.objective --device $(DEVICE) $(HEADS)
	test ! -d $(STUDENT) || $(BIN)/python -m benchmarks.rollouts --model $(STUDENT) \
	  --manifest data/recordings/long.jsonl --device $(DEVICE)
	$(BIN)/python -m benchmarks.opd_step --device $(DEVICE)
	$(BIN)/python -m benchmarks.opd_step --device $(DEVICE) --student ark-asr-0.6b $(FULL_SIZE)

# Checks a GPU, then measures it. Finished parts are not repeated. GPU='--device cpu --tiny' tries the same code on a CPU.
gpu: install
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.gpu $(GPU)
