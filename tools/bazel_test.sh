#!/usr/bin/env bash
# Shows that `bazel test` passes the core's tests, and fails when one is broken.
#
#   bash tools/bazel_test.sh
#
# Runs Debian's bazel-bootstrap (4.2.3) without a network, on a copy of the tree, with
# the python3 on PATH and its packages (`pip install -e '.[test]'`). Set BAZEL if the
# binary has another name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bazel=${BAZEL:-bazel-4}
if ! command -v "$bazel" > /dev/null; then
  echo "No $bazel here: apt-get install bazel-bootstrap, or name it in BAZEL." >&2
  exit 1
fi
# Its real folder, because a version manager's python3 depends on the working directory.
interpreter=$(dirname "$(python3 -c 'import sys; print(sys.executable)')")

work=$(mktemp -d)
run_bazel() { (cd "$1" && "$bazel" --output_user_root="$work/output" "${@:2}"); }
trap 'run_bazel "$work/tree" shutdown; chmod -R u+w "$work"; rm -rf "$work"' EXIT

# Bazel 4 requires a WORKSPACE.
mkdir "$work/tree"
git ls-files -z --cached --others --exclude-standard |
  xargs -0 cp --parents -t "$work/tree"
touch "$work/tree/WORKSPACE"

# Bazel 4 would download repositories of which this needs very little, so small local
# ones replace them.
stand_in() { # stand_in REPOSITORY FILE: holds that one file, read from stdin.
  local folder
  folder=$work/$1/$(dirname "$2")
  mkdir -p "$folder"
  touch "$work/$1/WORKSPACE" "$folder/BUILD"
  cat > "$work/$1/$2"
}
rules() { # rules NAME...: Starlark that exports rules built into Bazel 4.
  printf '%s\n' "$@" | sed 's/.*/& = native.&/'
}
rules py_library py_binary py_test | stand_in rules_python python/defs.bzl
rules cc_binary cc_library cc_test cc_toolchain cc_toolchain_suite |
  stand_in rules_cc cc/defs.bzl
rules java_import java_runtime java_toolchain | stand_in rules_java java/defs.bzl
stand_in remote_coverage_tools BUILD << 'END'
filegroup(name = "coverage_report_generator", visibility = ["//visibility:public"])
filegroup(name = "lcov_merger", visibility = ["//visibility:public"])
END

options=(
  --color=no --curses=no --noshow_progress --spawn_strategy=local
  --test_env="PATH=$interpreter:$PATH" --test_output=errors
)
for name in rules_python rules_cc rules_java remote_coverage_tools; do
  options+=(--override_repository="$name=$work/$name")
done
targets=()
for file in tests/core/*_test.py; do
  targets+=("//:${file%.py}")
done

echo "== Every target of BUILD builds"
run_bazel "$work/tree" build "${options[@]}" //:all

echo "== The core's tests pass"
run_bazel "$work/tree" test "${options[@]}" "${targets[@]}"

echo "== A broken test fails, and so does a file without a test"
broken=${targets[0]} empty=${targets[3]}
printf '\n\ndef test_broken_on_purpose():\n    assert False\n' \
  >> "$work/tree/${broken#//:}.py"
: > "$work/tree/${empty#//:}.py"
status=0
run_bazel "$work/tree" test "${options[@]}" --keep_going "${targets[@]}" \
  > "$work/log" 2>&1 || status=$?
grep -E '^//' "$work/log" || cat "$work/log"
# 3: built, and tests failed.
red=$(grep -E '^//.* FAILED ' "$work/log" | awk '{print $1}' | sort)
wanted=$(printf '%s\n' "$broken" "$empty" | sort)
if [[ $status != 3 || $red != "$wanted" ]]; then
  echo "Expected exactly these to fail, with status 3, not $status:" $wanted >&2
  exit 1
fi
echo "== Bazel passes the core's tests, and fails when one is broken"
