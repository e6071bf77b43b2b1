# Sourced by the other scripts: creates or updates .venv, and puts it first in PATH.
#
#   environment EXTRAS     EXTRAS is "" or a list such as "[test]"
#
# Needs Python 3.11 or newer, which $PYTHON may name.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "jaxseg needs Python 3.11 or newer: install it, or set PYTHON to its path" >&2
  return 1
}

environment() {
  local extras=$1 requirements stamp python
  requirements=$(cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
  stamp=".venv/installed$extras-$requirements"
  if [ ! -e "$stamp" ]; then
    python=$(find_python)
    echo "== environment: installing jaxseg$extras into .venv with $($python --version)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint constraints.txt --editable ".$extras"
    touch "$stamp"
  fi
  PATH="$PWD/.venv/bin:$PATH"
}
