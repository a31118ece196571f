{{- define "evp.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for what is put behind it: a job of a schedule has 52 characters at most. */}}
{{- define "evp.fullname" -}}
{{- $name := include "evp.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Of a component: (list root "server"). */}}
{{- define "evp.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "evp.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "evp.labels" -}}
{{- $root := index . 0 -}}
{{ include "evp.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "evp.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "evp.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The secret of a component: its own, or that of all: (list root own). */}}
{{- define "evp.secretName" -}}
{{- $root := index . 0 -}}
{{- coalesce (index . 1) $root.Values.existingSecret (include "evp.fullname" $root) }}
{{- end }}

{{/* The image, with a tag of its own if there is one: (list root "tag"). */}}
{{- define "evp.image" -}}
{{- $root := index . 0 -}}
{{- $own := index . 1 -}}
{{- $image := $root.Values.image -}}
{{- if and $image.digest $image.tag -}}
{{- fail "image.digest and image.tag exclude each other: a tag would be ignored" }}
{{- end -}}
{{- if and $image.digest (not $own) -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ coalesce $own $image.tag $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "evp.metricsToken" -}}
{{- if or .Values.secrets.metricsToken .Values.metrics.tokenInSecret }}true{{ end }}
{{- end }}

{{/* The labels by which Prometheus tells the series of this evp from those of others. */}}
{{- define "evp.series" -}}
{{- default (printf "namespace=%q" .Release.Namespace) .Values.metrics.selector }}
{{- end }}

{{/* The group of the workers, as they have it: their settings, all settings, evp's default. */}}
{{- define "evp.consumerGroup" -}}
{{- coalesce (get .Values.worker.settings "EVP_CONSUMER_GROUP") (get .Values.settings "EVP_CONSUMER_GROUP") "evp-workers-group" }}
{{- end }}

{{/* Environment of every process: (list root settings own-secret). */}}
{{- define "evp.env" -}}
{{- $root := index . 0 -}}
- {name: EVP_ENV, value: production}
- {name: EVP_DATA_DIR, value: /tmp/evp}
{{- $secret := index . 2 }}
{{- range $key := list "EVP_REDIS_URL" "EVP_MONGO_URL" }}
{{ include "evp.secret" (list $root $key $secret) }}
{{- end }}
- {name: EVP_SHUTDOWN_TIMEOUT_S, value: {{ $root.Values.shutdownTimeoutS | quote }}}
{{- range $key, $value := merge (dict) (index . 1) $root.Values.settings }}
- {name: {{ $key }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* A variable from the secret: (list root key own-secret). */}}
{{- define "evp.secret" -}}
- name: {{ index . 1 }}
  valueFrom: {secretKeyRef: {name: {{ include "evp.secretName" (list (index . 0) (index . 2)) }}, key: {{ index . 1 }}}}
{{- end }}

{{/* One that the secret need not have: (list root key own-secret). */}}
{{- define "evp.optionalSecret" -}}
- name: {{ index . 1 }}
  valueFrom: {secretKeyRef: {name: {{ include "evp.secretName" (list (index . 0) (index . 2)) }}, key: {{ index . 1 }}, optional: true}}
{{- end }}

{{/*
What every pod has. Without enableServiceLinks: false a service named evp would set
EVP_PORT=tcp://… in it, which evp would take for its setting.
*/}}
{{- define "evp.pod" -}}
enableServiceLinks: false
automountServiceAccountToken: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 128Mi}}
  {{- with .Values.extraVolumes }}{{ toYaml . | nindent 2 }}{{- end }}
{{- end }}

{{/* What every container has: (list root tag). */}}
{{- define "evp.container" -}}
{{- $root := index . 0 -}}
image: {{ include "evp.image" . }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext: {{- toYaml $root.Values.securityContext | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- with $root.Values.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{- end }}
{{- end }}

{{/* Where pods of a component run: (list root "server" values-of-the-component). */}}
{{- define "evp.placement" -}}
{{- $part := index . 2 -}}
topologySpreadConstraints:
  {{- if $part.topologySpreadConstraints }}{{ toYaml $part.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "evp.selectorLabels" . | nindent 8 }}
  {{- end }}
{{- with include "evp.nodes" $part | trim }}
{{ . }}
{{- end }}
{{- with $part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* On which nodes pods may run, jobs too: values of a component. */}}
{{- define "evp.nodes" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Annotations of pods: they start anew when the secret is another one; (list root values-of-the-component port). */}}
{{- define "evp.podAnnotations" -}}
{{- $root := index . 0 -}}
{{- if not $root.Values.existingSecret -}}
checksum/secret: {{ toJson $root.Values.secrets | sha256sum }}
{{ end -}}
{{- if $root.Values.metrics.annotations -}}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: {{ index . 2 | quote }}
{{ end -}}
{{- with (index . 1).podAnnotations }}{{ toYaml . }}{{ end }}
{{- end }}
