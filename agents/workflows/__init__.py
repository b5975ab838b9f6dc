"""Workflows to run and copy: `python -m smallfirst.agents.workflows.triage` (or `.research`, `.extraction`)."""
