# Every chore is one word. PYTHON chooses the interpreter.
PYTHON ?= python

.PHONY: setup check test docs docs-output fuzz bench demo

setup:
	python3 -m venv .venv
	.venv/bin/python -m pip install -e '.[offline,dev]'

check:
	$(PYTHON) -m ruff check src tests bench examples docs
	$(PYTHON) -m ruff format --check src tests bench examples docs
	$(PYTHON) -m mypy
	$(MAKE) docs

test:
	$(PYTHON) -m pytest

docs:  # the site, in site/; a broken link or a page without a place stops it
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

docs-output:  # runs the commands of the tutorials and pastes what they print
	$(PYTHON) docs/examples_output.py

fuzz:  # seconds for all targets together
	FOVEATE_FUZZ_SECONDS=$${FOVEATE_FUZZ_SECONDS:-300} $(PYTHON) -m pytest tests/test_fuzz.py

bench:  # most benchmarks; many hours
	$(PYTHON) bench/baseline.py
	$(PYTHON) bench/detection_segmentation.py
	$(PYTHON) bench/tunings.py
	$(PYTHON) bench/backbones.py
	$(PYTHON) bench/few_shot.py
	$(PYTHON) bench/small_clip.py
	$(PYTHON) bench/shift.py
	$(PYTHON) bench/soup_forgetting.py
	$(PYTHON) bench/pretrain.py
	$(PYTHON) bench/caption.py
	$(PYTHON) bench/generate.py
	$(PYTHON) bench/explain.py
	$(PYTHON) bench/calibration.py
	$(PYTHON) bench/regress.py
	$(PYTHON) bench/export.py
	$(PYTHON) bench/serve.py
	$(PYTHON) bench/crash_safety.py
	$(PYTHON) bench/peers.py --threads 1
	$(PYTHON) bench/peers.py --threads 2
	$(PYTHON) bench/detection_metrics.py
	$(PYTHON) bench/scale.py --plot docs/benchmarks/scale.svg

demo:
	foveate demo
