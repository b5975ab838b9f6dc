#!/usr/bin/env bash
# Makes a virtual environment and installs smallfirst into it, saying what it does.
#   deploy/setup.sh PYTHON VENV EXTRAS
# The one long step is llama.cpp, which is compiled for this machine's processor the first time (5 to 10 minutes on
# two cores); pip keeps the result in its cache, so the next environment takes seconds.
set -euo pipefail

python=$1 venv=$2 extras=$3
log=$venv/setup.log

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null || die "no '$python' found. Install Python 3.11 to 3.13, or name it: make PYTHON=python3.12 …"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
  die "$("$python" --version) is not supported: Python 3.11 to 3.13 is. Name another one: make PYTHON=python3.12 …"

if [ ! -x "$venv/bin/python" ]; then
  say "virtual environment in $venv"
  "$python" -m venv "$venv" || die "could not make a virtual environment (on Debian: apt-get install python3-venv)"
fi
: >"$log"

# Shortens pip's verbose output to one line a step, and the compiler's to its step counter.
progress() {
  awk '
    match($0, /^ *\[[0-9]+\/[0-9]+\]/) {
      step = substr($0, RSTART, RLENGTH); gsub(/ /, "", step)
      n = split($0, part, " "); file = part[n]; sub(/.*\//, "", file)
      printf "   llama.cpp %s %s\n", step, file; fflush(); next }
    /^ *(Collecting|Building wheel|Created wheel|Installing collected|Successfully installed|ERROR|error:)/ {
      sub(/^ */, ""); print "   " substr($0, 1, 110); fflush() }'
}

install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check "$@" 2>&1 | tee -a "$log" | progress ||
    { tail -n 30 "$log" >&2; die "the installation failed; the whole output is in $log"; }
}

if ! "$venv/bin/python" -c 'import importlib.metadata as m; m.version("llama-cpp-python")' 2>/dev/null; then
  command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
    die "llama.cpp needs a C++ compiler (on Debian: apt-get install g++; on macOS: xcode-select --install)"
  say "llama.cpp: compiled for this machine the first time (5 to 10 minutes on two cores)"
  install --verbose "$(sed -n 's/^ *"\(llama-cpp-python[^"]*\)".*/\1/p' pyproject.toml)"
fi
say "smallfirst and its packages ($extras)"
# One that cannot be compiled again must not be taken for the new one.
rm -f router/scoring/arithmetic/compiled.c router/scoring/arithmetic/compiled.*.so
install --editable ".[$extras]"
"$venv/bin/python" -c 'import sys; from smallfirst.router.scoring.arithmetic import COMPILED; sys.exit(not COMPILED)' ||
  say "note: scoring could not be compiled and runs in numpy, which takes about twice as long; it needs Python's headers" \
    "(on Debian: apt-get install python3-dev), then: make clean"
say "ready"
