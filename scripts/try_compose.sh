#!/bin/sh
# Start deploy/compose.yaml, send events through it and verify; then remove it with its data.
set -eu
cd "$(dirname "$0")/.."
# Another evp on this machine may have the usual port.
EVP_PORT=${EVP_PORT:-3091}
export EVP_PORT
compose() { docker compose -p evp-try -f deploy/compose.yaml "$@"; }

ended() {
  code=$?
  [ "$code" = 0 ] || compose logs --tail 100 >&2
  compose down --volumes >/dev/null 2>&1
  exit "$code"
}
trap ended EXIT
# sh need not run that one where a signal ends it.
trap 'exit 130' INT
trap 'exit 143' TERM

compose up --build --detach --wait --wait-timeout 300
compose exec -T serve evp loadtest --eps 500 --duration 5s --verify
compose exec -T serve evp doctor
# A new server and new workers find everything as it was.
compose up --detach --wait --wait-timeout 300 --force-recreate --no-deps serve work
compose exec -T serve evp send --type after-the-change
compose exec -T serve evp verify
