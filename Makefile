# Everyday commands. They use the tools of the active environment.
.PHONY: install test lint format types bench bench-quick fuzz gallery techniques readme docs ci

install:            ## editable install with the development tools
	python -m pip install -e '.[dev]'

test:               ## all tests
	pytest -W error

lint:               ## style
	ruff check .
	ruff format --check .

format:             ## rewrite to the common style
	ruff check --fix .
	ruff format .

# A checker does not follow the directory mapping of an editable install, so the
# types are checked on a plain tree, under the names that users import.
types:              ## strict type check of an installed copy
	set -e; tree="$$(mktemp -d)"; trap 'rm -rf "$$tree" build costgraph.egg-info' EXIT; \
	python -m pip install --quiet --disable-pip-version-check --no-deps --target "$$tree" .; \
	root="$$PWD"; cd "$$tree"; MYPYPATH="$$tree" python -m mypy --config-file "$$root/pyproject.toml" -p costgraph

bench:              ## speed, as ratios measured in one run
	python benchmarks/startup.py
	python benchmarks/first_answer.py
	python benchmarks/compile.py
	python benchmarks/regimes.py
	python benchmarks/evaluators.py
	python benchmarks/drawing.py
	python benchmarks/importing.py
	python benchmarks/fidelity.py
	python benchmarks/serving.py
	python benchmarks/serving_forms.py
	python benchmarks/layer_gpt3.py

bench-quick:        ## the same with few repetitions, to see that they run
	python benchmarks/startup.py --runs 3
	python benchmarks/first_answer.py --runs 2
	python benchmarks/compile.py --runs 3
	python benchmarks/regimes.py --runs 3 --largest 1000
	python benchmarks/evaluators.py --runs 3 --points 100000
	python benchmarks/drawing.py --runs 1
	python benchmarks/importing.py --layers 40
	python benchmarks/fidelity.py --quick
	python benchmarks/serving_forms.py --quick
	python benchmarks/layer_gpt3.py

FUZZ ?= 10000
SEED ?= 1
fuzz:               ## random input to every command: make fuzz FUZZ=10000 SEED=1
	python -m tests.fuzz --count $(FUZZ) --seed $(SEED)

gallery:            ## the pictures of docs/gallery.md, made anew
	python docs/tools/gallery.py

techniques:         ## docs/techniques.md, every number of it computed
	python docs/tools/techniques.py

readme:             ## the generated parts of the README, made anew
	python docs/tools/readme.py

docs:               ## the site, into site/: no broken link, every notebook run (extra docs)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

ci:                 ## what continuous integration runs
	bash .ci/run
