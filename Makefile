.PHONY: install lint format types test test-unit test-slow docs demo

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

test-unit:
	python -m pytest -m "not network and not slow and not integration"

test-slow:
	python -m pytest -m slow

docs:
	rm -rf docs/generated
	sphinx-build -W --keep-going -q docs docs/_build

demo:
	sam-bloodcell demo --out demo
