#!/usr/bin/env bash
# Build llama-server from the source that llama-cpp-python publishes, so that both servers run the same llama.cpp.
# usage: build_llama_server.sh FOLDER [VERSION]
# Prints the path of llama-server. Does nothing if FOLDER has it. VERSION: by default, the one that tenantd needs.
# CMAKE_ARGS adds options, as for llama-cpp-python: build both with the same, for example "-DGGML_CUDA=on".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
version=${2:-$(sed -nE 's/.*"llama-cpp-python==([^"]+)".*/\1/p' "$here/../pyproject.toml")}
server=$folder/$version/llama-server
if [ -x "$server" ]; then
  echo "$server"
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "building llama-server of llama-cpp-python $version (minutes; log: $folder/build.log)" >&2
{
  "${PYTHON:-python3}" -m pip download --no-deps --no-binary :all: -d "$work" "llama-cpp-python==$version"
  tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work" --strip-components=1
  read -ra options <<<"${CMAKE_ARGS:-}"
  cmake -S "$work/vendor/llama.cpp" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON \
    '-DCMAKE_INSTALL_RPATH=$ORIGIN' ${options[@]+"${options[@]}"}
  cmake --build "$work/build" -j "$(nproc)" --target llama-server
} >"$folder/build.log" 2>&1 || { tail -n 30 "$folder/build.log" >&2; exit 1; }
mkdir -p "$folder/$version"
cp -a "$work"/build/bin/. "$folder/$version/"
echo "$server"
