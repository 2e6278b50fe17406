.PHONY: install lint format types test test-slow docs demo

install:
	pip install -c constraints.txt -e ".[dev]"

lint:
	ruff check .
	ruff format --check .
	shellcheck .ci/run

format:
	ruff check --fix .
	ruff format .

types:
	mypy

test:
	python -m pytest

test-slow:
	python -m pytest -m slow

docs:
	rm -rf docs/generated
	sphinx-build -W --keep-going -q docs docs/_build

demo:
	sam-bloodcell demo --out demo
