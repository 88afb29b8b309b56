{{/* The containers and volumes themselves, in weir's own scope. */}}

{{- define "weir.image" -}}
{{- $image := .Values.image -}}
{{- $tag := $image.tag | default .Chart.AppVersion -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository $tag -}}
{{- end -}}
{{- end -}}

{{/* What weir and its check have in common: they read the same files and the same environment. */}}
{{- define "weir.containerCommon" -}}
image: {{ include "weir.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - {name: weir-config, mountPath: /etc/weir, readOnly: true}
  {{- if .Values.secrets }}
  - {name: weir-secrets, mountPath: /etc/weir/secrets, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end -}}

{{- define "weir.containerFields" -}}
{{- $facts := include "weir.facts" . | fromJson -}}
args: ["-c", "/etc/weir/weir.yaml"]
{{ include "weir.containerCommon" . }}
ports:
  {{- range $name, $port := $facts.listeners }}
  {{- if regexMatch "^[0-9]+$" $port }}
  - containerPort: {{ $port }}
    protocol: TCP
    {{- if and (ne $name "weir-metrics") (le (len $name) 15) (not (contains "--" $name)) (not (hasSuffix "-" $name)) }}
    name: {{ $name }}
    {{- end }}
  {{- end }}
  {{- end }}
  - {name: weir-metrics, containerPort: {{ $facts.metrics_port | int }}, protocol: TCP}
{{- range $probe, $path := dict "startup" "/readyz" "readiness" "/readyz" "liveness" "/healthz" }}
{{ $probe }}Probe:
  httpGet: {path: {{ $path }}, port: weir-metrics}
  {{- with get $.Values.probes $probe }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "weir.checkContainer" -}}
- name: weir-check
  args: ["--check", "-c", "/etc/weir/weir.yaml"]
  {{- include "weir.containerCommon" . | nindent 2 }}
{{- end -}}

{{- define "weir.nativeContainer" -}}
- name: weir
  restartPolicy: Always
  {{- include "weir.containerFields" . | nindent 2 }}
{{- end -}}

{{- define "weir.classicContainer" -}}
- name: weir
  {{- include "weir.containerFields" . | nindent 2 }}
{{- end -}}

{{- define "weir.podVolumes" -}}
- name: weir-config
  configMap:
    name: {{ include "weir.nameWith" (list . "config") }}
{{- with .Values.secrets }}
- name: weir-secrets
  projected:
    sources:
      {{- range . }}
      - secret:
          {{- toYaml . | nindent 10 }}
      {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* `data` is not the last: Helm takes the empty lines from a document's end, and with them the text's last newline. */}}
{{- define "weir.configMap" -}}
{{- $_ := include "weir.facts" . -}}
apiVersion: v1
kind: ConfigMap
data:
  {{- dict "weir.yaml" .Values.config | toYaml | nindent 2 }}
metadata:
  name: {{ include "weir.nameWith" (list . "config") }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "weir.labels" . | nindent 4 }}
{{- end -}}

{{- define "weir.restartAnnotations" -}}
{{- if eq .Values.reload "restart" -}}
checksum/weir-config: {{ .Values.config | sha256sum }}
{{- end -}}
{{- end -}}
