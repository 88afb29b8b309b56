{{/* What other charts include, with their own scope or with weir's:

       {{ include "weir.sidecar" . }}                      weir is the name of the dependency
       {{ include "weir.sidecar" .Subcharts.guard }}       it has an alias

weir.sidecar                        entry of initContainers: a native sidecar
weir.container                      entry of containers: a classic one
weir.check                          entry of initContainers, to stand before them: `weir --check`
weir.volumes                        entries of volumes
weir.config                         the whole ConfigMap, a document of its own
weir.annotations                    of the pod: the checksum where reload is `restart`, else nothing
weir.terminationGracePeriodSeconds  of the pod

Inside range or with, give $ in place of the dot. */}}

{{- define "weir.sidecar" -}}
{{- $to := dict "from" . -}}{{- include "weir.resolve" $to -}}
{{- include "weir.nativeContainer" $to -}}
{{- end -}}

{{- define "weir.container" -}}
{{- $to := dict "from" . -}}{{- include "weir.resolve" $to -}}
{{- include "weir.classicContainer" $to -}}
{{- end -}}

{{- define "weir.check" -}}
{{- $to := dict "from" . -}}{{- include "weir.resolve" $to -}}
{{- if $to.Values.check.enabled }}{{ include "weir.checkContainer" $to }}{{ end -}}
{{- end -}}

{{- define "weir.volumes" -}}
{{- $to := dict "from" . -}}{{- include "weir.resolve" $to -}}
{{- include "weir.podVolumes" $to -}}
{{- end -}}

{{- define "weir.config" -}}
{{- $to := dict "from" . -}}{{- include "weir.resolve" $to -}}
{{- include "weir.configMap" $to -}}
{{- end -}}

{{- define "weir.annotations" -}}
{{- $to := dict "from" . -}}{{- include "weir.resolve" $to -}}
{{- include "weir.restartAnnotations" $to -}}
{{- end -}}

{{- define "weir.terminationGracePeriodSeconds" -}}
{{- $to := dict "from" . -}}{{- include "weir.resolve" $to -}}
{{- include "weir.gracePeriod" $to -}}
{{- end -}}

{{/* Puts weir's scope beside `from`: a parent's scope has it under .Subcharts.weir, with the values it has below `weir:`. */}}
{{- define "weir.resolve" -}}
{{- $from := get (.from.Subcharts | default dict) "weir" | default .from -}}
{{- if not (and (hasKey $from.Values "config") (hasKey $from.Values "reload")) -}}
{{- fail "weir: no values of weir's here: give `include` the chart's top scope ($ inside range or with), or .Subcharts.ALIAS where the dependency has an alias" -}}
{{- end -}}
{{- $_ := set . "Values" $from.Values -}}
{{- $_ := set . "Release" $from.Release -}}
{{- $_ := set . "Chart" $from.Chart -}}
{{- end -}}
