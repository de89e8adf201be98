#!/usr/bin/env bash
# Build llama.cpp for Vulkan in an environment of its own, and run the tests of the engine with all layers on the device.
# usage: on_device.sh FOLDER [TEST OR PYTEST OPTION...]
# By default the device is Mesa's, which computes on the CPU: what is tested is the way to a device and back, not speed.
# GGML_VK_VISIBLE_DEVICES=n takes the n-th device that the drivers of this machine have, VK_DRIVER_FILES other drivers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$root"
version=$(sed -nE 's/.*"llama-cpp-python==([^"]+)".*/\1/p' pyproject.toml)
venv=$folder/venv
log=$folder/build.log
least_headers=272 # Vulkan 1.3.272 is the first that llama.cpp can be compiled with
least_mesa=25.0   # 22.3 corrupts its heap when an engine computes with a LoRA adapter and without by turns; 25.0.7 works
tests=(
  tests/contract tests/engine/llama tests/engine/checks tests/isolation tests/llamacpp
  tests/process/test_adapters.py tests/process/test_cache.py tests/process/test_canaries.py
)

missing=()
command -v glslc >/dev/null || missing+=(glslc)
[ -e /usr/include/vulkan/vulkan_core.h ] || missing+=(libvulkan-dev)
[ -e /usr/include/spirv/unified1/spirv.hpp ] || missing+=(spirv-headers)
software=
drivers=(/usr/share/vulkan/icd.d/lvp_icd*.json)
if [ -z "${GGML_VK_VISIBLE_DEVICES:-}" ]; then
  export GGML_VK_VISIBLE_DEVICES=0 # a device that computes on the CPU is hidden unless it is named
  if [ -z "${VK_DRIVER_FILES:-}" ]; then
    software=yes
    [ -e "${drivers[0]}" ] || missing+=(mesa-vulkan-drivers)
    export VK_DRIVER_FILES=$(IFS=:; echo "${drivers[*]}")
  fi
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

# Unpack a package of a suite of Debian in a folder. apt checks it; the machine's sources and packages stay as they are.
fetch() {
  local suite=$1 package=$2 to=$3 apt=$folder/apt/$1
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" \
    >"$apt/sources.list"
  local options=(
    -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$apt/lists"
    -o "Dir::Cache=$apt" -o "Dir::Cache::Archives=$apt/archives" -o APT::Sandbox::User=
  )
  (
    apt-get "${options[@]}" update && cd "$apt" && rm -f "$package"_*.deb &&
      apt-get "${options[@]}" download "$package/$suite" && dpkg-deb --extract "$package"_*.deb "$to"
  ) >"$folder/apt.log" 2>&1 || { tail -n 5 "$folder/apt.log" >&2; return 1; }
}

mesa=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null || true)
if [ -n "$software" ] && [ -n "$mesa" ] && dpkg --compare-versions "$mesa" lt "$least_mesa"; then
  echo "this system's Mesa is older than $least_mesa and corrupts its memory: taking the driver of Debian 12's backports"
  driver=$folder/driver/usr
  [ -e "$folder/driver.json" ] || fetch bookworm-backports mesa-vulkan-drivers "$folder/driver" || {
    echo "cannot fetch it; set VK_DRIVER_FILES to the driver of a Mesa of $least_mesa or later (lvp_icd.json)" >&2
    exit 1
  }
  sed "s#\"libvulkan_lvp.so\"#\"$(echo "$driver"/lib/*/libvulkan_lvp.so)\"#" "$driver"/share/vulkan/icd.d/lvp_icd.json \
    >"$folder/driver.json"
  export VK_DRIVER_FILES=$folder/driver.json
fi

if [ ! -e "$folder/$version.stamp" ] || [ pyproject.toml -nt "$folder/$version.stamp" ]; then
  headers=/usr/include
  if ! headers_suffice "$headers"; then
    headers=$folder/headers/usr/include
    echo "the Vulkan headers of this system are older than 1.3.$least_headers: taking those of Debian 13"
    [ -e "$headers/vulkan/vulkan_core.h" ] || fetch trixie libvulkan-dev "$folder/headers" || {
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
