#!/usr/bin/env bash
# Build llama.cpp for Vulkan in an environment of its own, and run the tests of the engine with all layers on the device.
# usage: on_device.sh FOLDER [TEST OR PYTEST OPTION...]
# By default the device is Mesa's, which computes on the CPU: what is tested is the way to a device and back, not speed.
# GGML_VK_VISIBLE_DEVICES=n takes the n-th device that the drivers of this machine have.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$root"
version=$(sed -nE 's/.*"llama-cpp-python==([^"]+)".*/\1/p' pyproject.toml)
venv=$folder/venv
log=$folder/build.log
least_headers=272 # Vulkan 1.3.272 is the first that llama.cpp can be compiled with
tests=(
  tests/contract tests/engine/llama tests/engine/checks tests/isolation tests/llamacpp
  tests/process/test_adapters.py tests/process/test_cache.py tests/process/test_canaries.py
)

missing=()
command -v glslc >/dev/null || missing+=(glslc)
[ -e /usr/include/vulkan/vulkan_core.h ] || missing+=(libvulkan-dev)
[ -e /usr/include/spirv/unified1/spirv.hpp ] || missing+=(spirv-headers)
drivers=(/usr/share/vulkan/icd.d/lvp_icd*.json)
if [ -z "${GGML_VK_VISIBLE_DEVICES:-}" ]; then
  [ -e "${drivers[0]}" ] || missing+=(mesa-vulkan-drivers)
  export GGML_VK_VISIBLE_DEVICES=0 # a device that computes on the CPU is hidden unless it is named
  export VK_DRIVER_FILES=$(IFS=:; echo "${drivers[*]}")
fi
if ((${#missing[@]})); then
  echo "missing: ${missing[*]} (apt-get install ${missing[*]})" >&2
  exit 1
fi

# Whether the headers in a folder are new enough.
headers_suffice() {
  local numbers
  numbers=$(sed -nE 's/^#define VK_HEADER_VERSION_COMPLETE .*\(0, *([0-9]+), *([0-9]+), .*/\1 \2/p;
    s/^#define VK_HEADER_VERSION ([0-9]+).*/\1/p' "$1/vulkan/vulkan_core.h" | sort -n | xargs)
  read -r major minor patch <<<"$numbers"
  ((major > 1 || minor > 3 || (minor == 3 && patch >= least_headers)))
}

# Debian 13's headers, checked by apt and unpacked in the folder; the machine's sources and packages stay as they are.
fetch_headers() {
  local apt=$folder/apt
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
    >"$apt/sources.list"
  local options=(
    -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$apt/lists"
    -o "Dir::Cache=$apt" -o "Dir::Cache::Archives=$apt/archives" -o APT::Sandbox::User=
  )
  { apt-get "${options[@]}" update && cd "$apt" && apt-get "${options[@]}" download libvulkan-dev &&
    dpkg-deb --extract libvulkan-dev_*.deb "$folder/headers"; } >"$log" 2>&1
}

if [ ! -e "$folder/$version.stamp" ] || [ pyproject.toml -nt "$folder/$version.stamp" ]; then
  headers=/usr/include
  if ! headers_suffice "$headers"; then
    headers=$folder/headers/usr/include
    echo "the Vulkan headers of this system are older than 1.3.$least_headers: taking those of Debian 13"
    [ -e "$headers/vulkan/vulkan_core.h" ] || (fetch_headers) || {
      tail -n 5 "$log" >&2
      echo "cannot fetch them; unpack a libvulkan-dev of 1.3.$least_headers or later in $folder/headers" >&2
      exit 1
    }
    export CPLUS_INCLUDE_PATH=$headers
  fi
  "${PYTHON:-python3}" -m venv "$venv"
  echo "building llama-cpp-python $version for Vulkan (5 to 20 minutes; log: $log)"
  # Not from pip's cache, where a build for the CPU has the same name, nor into it.
  CMAKE_ARGS="${CMAKE_ARGS:-} -DGGML_VULKAN=on -DVulkan_INCLUDE_DIR=$headers" nice -n 19 \
    "$venv/bin/python" -m pip install -v --no-cache-dir --force-reinstall --no-deps "llama-cpp-python==$version" \
    >"$log" 2>&1 || { tail -n 40 "$log" >&2; exit 1; }
  "$venv/bin/python" -m pip install -q -e '.[demo,dev]'
  touch "$folder/$version.stamp"
fi

"$venv/bin/python" - <<'P'
from tenantd.llamacpp.devices import gpus

found = gpus()
print("device:", ", ".join(gpu.description for gpu in found) or "none")
raise SystemExit(None if found else "llama.cpp sees no device; see GGML_VK_VISIBLE_DEVICES and VK_DRIVER_FILES")
P
for argument; do
  if [ -e "${argument%%::*}" ]; then tests=(); fi # tests that are named replace these
done
TENANTD_TEST_GPU_LAYERS=-1 "$venv/bin/python" -m pytest "${tests[@]}" "$@"
