PYTHON ?= python3
SHELL := /bin/bash
ENV := source tools/env.sh

.PHONY: help setup demo test lint clean

help:
	@echo "make demo   set up, map the sequence of examples/office through ROS 2, show where the map is"
	@echo "make test   set up, run all tests"
	@echo "make setup  make .venv with ROS 2 and build the messages (once)"
	@echo "make lint   ruff and pyright"
	@echo "make clean  remove everything that was built"

setup:
	@$(PYTHON) tools/setup_environment.py

demo: setup
	@$(ENV) && python -m scal3r_ros.cli demo $(DEMO_ARGS)

test: setup
	@$(ENV) && python tools/run_tests.py $(TEST_ARGS)

lint: setup
	@$(ENV) && ruff check . && ruff format --check . && pyright

clean:
	rm -rf .venv build install log out
