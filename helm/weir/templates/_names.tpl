{{/* Names are DNS labels (RFC 1123), at most 63 long, whatever the release is called. */}}

{{- define "weir.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "weir.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* (list SCOPE SUFFIX): the full name, shortened so that the suffix fits. */}}
{{- define "weir.nameWith" -}}
{{- $suffix := index . 1 -}}
{{- $room := sub 62 (len $suffix) | int -}}
{{- printf "%s-%s" (include "weir.fullname" (index . 0) | trunc $room | trimSuffix "-") $suffix -}}
{{- end -}}

{{/* A Service's name begins with a letter (RFC 1035), which a release's need not. */}}
{{- define "weir.serviceName" -}}
{{- $name := include "weir.fullname" . -}}
{{- if not (regexMatch "^[a-z]" $name) -}}
{{- fail (printf "weir: the Service would be called %q, and a Service's name begins with a letter: set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "weir.metricsServiceName" -}}
{{- $_ := include "weir.serviceName" . -}}
{{- include "weir.nameWith" (list . "metrics") -}}
{{- end -}}

{{- define "weir.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "weir.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "weir.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "weir.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: weir
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Of the gateway's pods alone: neither of the test's, nor of pods that have weir as a sidecar. */}}
{{- define "weir.selectorLabels" -}}
app.kubernetes.io/name: {{ include "weir.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "weir.testLabels" -}}
app.kubernetes.io/name: {{ include "weir.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "weir.isGateway" -}}
{{- if eq (toString .Values.gateway.enabled) "auto" -}}
{{- ternary "true" "" .Chart.IsRoot -}}
{{- else if .Values.gateway.enabled -}}
true
{{- end -}}
{{- end -}}
