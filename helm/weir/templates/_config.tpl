{{/* What the chart must know of `config`, read from it so that nothing is said twice. It is no replacement for
`weir --check`: values.schema.json cannot look into a text block, so here only what is no YAML, no section of weir.yaml, or
cannot work in a pod is refused. */}}

{{/* The facts as JSON: {"drain_ms": 35000, "metrics_port": 9465, "listeners": {"inbound": 8080}}.
-1 as drain_ms: unknown, as a placeholder stands there. A listener that no Service can reach has a text in place of its port. */}}
{{- define "weir.facts" -}}
{{- $config := .Values.config | fromYaml -}}
{{- if not (trim .Values.config) -}}
{{- fail "weir: config is empty; write a weir.yaml, beginning with `version: 1`" -}}
{{- else if and (hasKey $config "Error") (eq (len $config) 1) -}}
{{- fail (printf "weir: config is not YAML, or not a mapping: %s" $config.Error) -}}
{{- end -}}
{{- $sections := splitList " " "version server admin metrics log correlation tenant store limits dedup upstreams listeners" -}}
{{- range $key := keys $config | sortAlpha -}}
{{- if not (has $key $sections) -}}
{{- fail (printf "weir: config: %q is not a section of weir.yaml; there are: %s" $key (join ", " $sections)) -}}
{{- end -}}
{{- end -}}
{{- range $key := without $sections "version" -}}
{{- if not (or (kindIs "map" (get $config $key)) (not (get $config $key))) -}}
{{- fail (printf "weir: config: %s is not a mapping" $key) -}}
{{- end -}}
{{- end -}}
{{- if ne (toString $config.version) "1" -}}
{{- fail "weir: config: the first line is to be `version: 1`" -}}
{{- end -}}
{{- $facts := dict "listeners" dict -}}
{{- include "weir.facts.drain" (list $config $facts) -}}
{{- include "weir.facts.metrics" (list $config $facts) -}}
{{- range $name, $listener := $config.listeners | default dict -}}
{{- if not (kindIs "map" $listener) -}}
{{- fail (printf "weir: config: listeners.%s is not a mapping" $name) -}}
{{- end -}}
{{- $_ := set $facts.listeners $name (include "weir.port" (list (toString $listener.address))) -}}
{{- end -}}
{{- toJson $facts -}}
{{- end -}}

{{/* The port of an address, or in words why it has none that another pod can reach. */}}
{{- define "weir.port" -}}
{{- $address := index . 0 -}}
{{- if hasPrefix "unix:" $address -}}
is a unix socket
{{- else if contains "$" $address -}}
is a placeholder, whose port the chart cannot know
{{- else if regexMatch "^(127\\.|localhost:|\\[::1\\])" $address -}}
is on loopback
{{- else if regexMatch ":[0-9]+$" $address -}}
{{- regexFind "[0-9]+$" $address -}}
{{- else -}}
is no address
{{- end -}}
{{- end -}}

{{- define "weir.facts.metrics" -}}
{{- $metrics := (index . 0).metrics | default dict -}}
{{- $address := $metrics.address | default "*:9465" -}}
{{- $port := include "weir.port" (list $address) -}}
{{- if not (regexMatch "^[0-9]+$" $port) -}}
{{- fail (printf "weir: config: metrics.address: %q %s, and the probes of Kubernetes go to the pod's address; write \"*:9465\"" $address $port) -}}
{{- end -}}
{{- $_ := set (index . 1) "metrics_port" ($port | int) -}}
{{- end -}}

{{- define "weir.facts.drain" -}}
{{- $server := (index . 0).server | default dict -}}
{{- if not (or (not $server.drain) (kindIs "map" $server.drain)) -}}
{{- fail "weir: config: server.drain is not a mapping" -}}
{{- end -}}
{{- $drain := $server.drain | default dict -}}
{{- $delay := include "weir.milliseconds" (list "server.drain.delay" ($drain.delay | default "0s")) | int64 -}}
{{- $timeout := include "weir.milliseconds" (list "server.drain.timeout" ($drain.timeout | default "30s")) | int64 -}}
{{- $_ := set (index . 1) "drain_ms" (ternary -1 (add $delay $timeout) (or (lt $delay 0) (lt $timeout 0))) -}}
{{- end -}}

{{- define "weir.milliseconds" -}}
{{- $text := index . 1 | toString -}}
{{- if contains "$" $text -}}
-1
{{- else if not (regexMatch "^[0-9]{1,9}(ms|s|m|h)$" $text) -}}
{{- fail (printf "weir: config: %s: %q is not a duration; write a count and a unit, such as 500ms, 30s, 5m" (index . 0) $text) -}}
{{- else -}}
{{- mul (regexFind "^[0-9]+" $text | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+$" $text)) -}}
{{- end -}}
{{- end -}}

{{/* Seconds that hold the whole drain. */}}
{{- define "weir.gracePeriod" -}}
{{- $drain_ms := (include "weir.facts" . | fromJson).drain_ms | int64 -}}
{{- $own := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $own -}}
{{- if lt $drain_ms 0 -}}
{{- fail "weir: config: server.drain has a placeholder, which the chart cannot read: set terminationGracePeriodSeconds" -}}
{{- end -}}
{{- add (div (add $drain_ms 999) 1000) 5 -}}
{{- else -}}
{{- if lt (mul ($own | int64) 1000) $drain_ms -}}
{{- fail (printf "weir: terminationGracePeriodSeconds: %d is less than drain.delay + drain.timeout of config (%d ms): requests would be cut off" ($own | int64) $drain_ms) -}}
{{- end -}}
{{- $own | int64 -}}
{{- end -}}
{{- end -}}

{{/* (list SCOPE TARGET WHERE): the port of a listener, named or given by its number. */}}
{{- define "weir.targetPort" -}}
{{- $listeners := (include "weir.facts" (index . 0) | fromJson).listeners -}}
{{- $target := index . 1 | toString -}}
{{- $found := get $listeners $target -}}
{{- if not $found -}}
{{- range $listeners -}}
{{- if eq . $target -}}{{- $found = . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "weir: %s: %q is no listener of config; there are: %s" (index . 2) $target (keys $listeners | sortAlpha | join ", ")) -}}
{{- else if not (regexMatch "^[0-9]+$" $found) -}}
{{- fail (printf "weir: %s: listeners.%s of config %s" (index . 2) $target $found) -}}
{{- end -}}
{{- $found -}}
{{- end -}}
