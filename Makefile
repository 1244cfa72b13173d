# make demo            try the whole of it on drawn pictures
# make demo IMAGES=dir the same on pictures of yours
# make test            all tests
# make check           formatting, lints, types, NVIDIA's headers, every interleaving, a little fuzzing
# make bench           a brief run of every bench
# make bench-peers     loaderd beside every other loader, at full length: an hour or so
# make gpu-bundle      a folder that checks a machine with a GPU, built where there is none
# make gpu-check       builds it and runs it here; OUT=gpu.json keeps what it found
# make coverage        how much of the code the tests run; LANCE=1 for all crates

.PHONY: demo test check bench bench-peers gpu-bundle gpu-check coverage system clean
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
SOURCES := $(shell git ls-files kernels loaderd pyclient Cargo.toml Cargo.lock pyproject.toml 2>/dev/null)

demo: $(VENV)/.installed
	IMAGES="$(IMAGES)" BIN="$(CURDIR)/$(BIN)" sh examples/demo.sh

test: $(VENV)/.installed $(VENV)/headers/.installed
	cargo test --release --locked --workspace
	$(BIN)/python -m pytest
	for example in examples/[0-9]*.py; do $(BIN)/python $$example --brief || exit 1; done

check: $(VENV)/.requirements $(VENV)/nvrtc/.installed $(VENV)/headers/.installed
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy pyclient/python kernels/compile.py loaderd/gpu/headers.py
	$(BIN)/python kernels/compile.py --check --packages $(VENV)/nvrtc
	$(BIN)/python loaderd/gpu/headers.py --packages $(VENV)/headers
	cargo fmt --check --manifest-path tests/loom/Cargo.toml
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	CARGO_TARGET_DIR=$(TARGET)/loom RUSTFLAGS="--cfg loom" cargo test --release --locked --manifest-path tests/loom/Cargo.toml
	scripts/fuzz.sh 10

bench: $(VENV)/.installed
	BIN="$(CURDIR)/$(BIN)" sh benches/run.sh $(BENCH)

bench-peers: $(VENV)/.installed
	IMAGES="$(IMAGES)" FULL=1 OUT="$(or $(OUT),bench-peers)" BIN="$(CURDIR)/$(BIN)" sh benches/run.sh peers

# Without Lance, and with a target folder of its own, so that the other daemon stays.
gpu-bundle: export CARGO_TARGET_DIR := $(TARGET)/gpu
gpu-bundle: $(VENV)/.requirements
	cargo build --release --locked --package loaderd --no-default-features
	cargo build --release --locked --package loaderd-python --package loaderd-gpucheck
	cargo test --release --locked --no-run --package loaderd-gpu --message-format=json >$(TARGET)/gpu/tests.json
	rm -rf $(TARGET)/gpu/wheels
	-$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--dest $(TARGET)/gpu/wheels -r benches/gpu/requirements.txt
	$(BIN)/python benches/gpu/bundle.py --programs $(TARGET)/gpu/release --tests $(TARGET)/gpu/tests.json \
		--wheels $(TARGET)/gpu/wheels $(if $(IMAGES),--images "$(IMAGES)") --out gpu-bundle

gpu-check: gpu-bundle
	$(BIN)/python gpu-bundle/check $(if $(OUT),--json "$(OUT)")

coverage: $(VENV)/.requirements
	BIN="$(CURDIR)/$(BIN)" LANCE="$(LANCE)" scripts/coverage.sh

system:
	@scripts/system-packages.sh

$(VENV)/.requirements: requirements.txt | system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# Folders of their own, because torch pins other versions.
$(VENV)/nvrtc/.installed: kernels/requirements.txt
$(VENV)/headers/.installed: loaderd/gpu/requirements.txt
$(VENV)/nvrtc/.installed $(VENV)/headers/.installed: | $(VENV)/.requirements
	rm -rf $(@D)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(@D) -r $<
	touch $@

# cargo first, so that its progress can be seen; pip then finds everything built.
$(VENV)/.installed: $(VENV)/.requirements $(SOURCES)
	@echo "building the daemon: 10 to 20 minutes on 2 cores when built for the first time (Lance is large)"
	cargo build --release --locked --package loaderd
	@echo "building the Python package"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	touch $@

clean:
	rm -rf $(VENV) demo gpu-bundle pyclient/data
	cargo clean
