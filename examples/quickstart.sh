#!/usr/bin/env bash
# From a GGUF file to an invoice: start a daemon, add two tenants, run a prompt for each, print the bill.
# usage: examples/quickstart.sh MODEL.gguf       (tenantd and tenantctl on the PATH)
set -euo pipefail
model=$(realpath "$1")

folder=$(mktemp -d)
export TENANTD_CONFIG=$folder/config.toml TENANTD_SOCKET=$folder/tenantd.sock TENANTD_STATE_DIR=$folder/state

tenantctl init --model "$model"
tenantd &
daemon=$!
trap 'kill "$daemon" 2>/dev/null || true; wait "$daemon" || true; rm -rf "$folder"' EXIT
tenantctl status --wait 600 >/dev/null

tenantctl tenant add acme --weight 2
tenantctl tenant add globex

tenantctl run --tenant acme --max-tokens 24 --temperature 0 "The three primary colours are"
tenantctl run --tenant globex --max-tokens 24 --temperature 0 "The days of the week are Monday, Tuesday,"

tenantctl usage
tenantctl invoice --month this
