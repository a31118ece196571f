#!/usr/bin/env bash
# Check the Helm chart, the alarms and the systemd units with the tools that know them.
#
#   make lint-deploy        a tool that is missing is built into .bench/deploy, where Go can
#   REQUIRE=1 …             a check that can't be made is an error
#
# Nothing is asked of a cluster, and no schema is fetched: kubernetes-validate brings its own.
set -euo pipefail
cd "$(dirname "$0")/.."

HELM=helm.sh/helm/v3/cmd/helm@v3.22.0
PROMTOOL=github.com/prometheus/prometheus/cmd/promtool@v0.316.0
KUBE_VERSIONS=(1.29.0 1.31.0 1.37.0)

HERE=$PWD/.bench/deploy
TOOLS=$PWD/.bench/tools/bin # of requirements/tools.lock
export PATH=$PATH:$HERE/bin PYTHON=${PYTHON:-.venv/bin/python}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
left_out=()

# need TOOL MODULE: whether it is here, or could be built
need() {
  command -v "$1" >/dev/null && return
  if command -v go >/dev/null; then
    echo "building $1 (minutes, once)" >&2
    GOBIN=$HERE/bin go install "$2" >&2 && return
  fi
  left_out+=("$1")
  return 1
}

chart() {
  local values kube out
  for values in deploy/helm/evp/ci/*-values.yaml; do
    helm lint deploy/helm/evp --strict --quiet -f "$values" --kube-version "${KUBE_VERSIONS[-1]}"
    for kube in "${KUBE_VERSIONS[@]}"; do
      out=$WORK/$(basename "$values" .yaml)-$kube.yaml
      helm template evp deploy/helm/evp -n evp -f "$values" --kube-version "$kube" >"$out"
      # Kinds of KEDA and of the Prometheus operator have no schema there: it warns of each.
      "$TOOLS/python" -m kubernetes_validate --strict --quiet --no-warn -k "${kube%.0}" "$out"
    done
    echo "chart: $(basename "$values") is well with Kubernetes ${KUBE_VERSIONS[*]}"
  done
}

# Queries of the dashboard, of the rules as the chart makes them, and of KEDA, read by Prometheus.
queries() {
  local rules=$WORK/queries.yaml
  "$PYTHON" - "$WORK"/all-values-*.yaml >"$rules" <<'PY'
import json, sys, yaml
found = [target["expr"] for panel in json.load(open("deploy/grafana/evp.json"))["panels"]
         for target in panel.get("targets", [])]
for path in sys.argv[1:]:
    for one in filter(None, yaml.safe_load_all(open(path))):
        if one["kind"] == "PrometheusRule":
            found += [rule["expr"] for group in one["spec"]["groups"] for rule in group["rules"]]
        if one["kind"] == "ScaledObject":
            found += [trigger["metadata"]["query"] for trigger in one["spec"]["triggers"]]
named = {expr.replace("$__rate_interval", "5m"): f"query:{n}" for n, expr in enumerate(found)}
rules = [{"record": name, "expr": expr} for expr, name in named.items()]
json.dump({"groups": [{"name": "queries", "rules": rules}]}, sys.stdout)
PY
  promtool check rules "$rules" | tail -n +2
}

units() {
  local path
  # The program need not be here to check the rest.
  for path in deploy/systemd/*.service deploy/systemd/*.timer; do
    sed 's#^ExecStart=[^ ]*#ExecStart=/bin/true#' "$path" >"$WORK/$(basename "$path")"
  done
  cp "$WORK/evp-work@.service" "$WORK/evp-work@1.service"
  (
    cd "$WORK"
    systemd-analyze verify ./evp-serve.service ./evp-work@1.service ./evp-verify.service ./evp-verify.timer
    for path in evp-serve evp-work@1 evp-verify; do
      systemd-analyze security --offline=true --threshold=15 --no-pager "./$path.service" | tail -1
    done
  )
}

if need helm "$HELM"; then chart; fi
if need promtool "$PROMTOOL"; then
  promtool check rules --lint=all deploy/prometheus/alerts.yaml
  promtool test rules deploy/prometheus/alerts.test.yaml
  if [ -e "$WORK/all-values-${KUBE_VERSIONS[0]}.yaml" ]; then queries; fi
fi
if command -v systemd-analyze >/dev/null; then units; else left_out+=(systemd-analyze); fi

if [ ${#left_out[@]} -gt 0 ]; then
  echo "left out, since they are not here: ${left_out[*]}" >&2
  exit "${REQUIRE:-0}"
fi
