# The front door. `make demo` shows ccb at work, `make test` proves it; a machine needs nothing but Rust's toolchain.

.PHONY: help demo test check bench soak lab lab-full setup
.DEFAULT_GOAL := help

AGENTS ?= stub

help:
	@echo 'make demo               two stub agents ask each other in panes; no account, no network'
	@echo 'make demo AGENTS=real   the real Codex CLI does, with a model server on loopback'
	@echo 'make demo KEEP=1        leaves the panes open, to look around in'
	@echo 'make test               all tests; ARGS="..." goes to cargo nextest run'
	@echo 'make check              form, lints, documentation, dependencies'
	@echo 'make bench              the figures of docs/figures.md'
	@echo 'make soak               ten minutes of kills, stops, disk errors and typing, with a ledger at the end'
	@echo 'make lab-full           every agent CLI on every rung, through every end; writes the table of docs/agents.md'
	@echo 'make lab                fetches the pinned agent CLIs (make test does, too)'
	@echo 'make setup              installs what is missing: tmux, cargo-nextest'

demo:
	@KEEP='$(KEEP)' scripts/demo.sh '$(AGENTS)'

test:
	@scripts/test.sh $(ARGS)

check:
	@scripts/check.sh

bench:
	@scripts/bench.sh $(ARGS)

soak:
	@scripts/soak.sh

lab:
	@scripts/lab.sh

lab-full:
	@scripts/lab-full.sh $(ARGS)

setup:
	@scripts/setup.sh nextest
