{{/*
Names are fixed, not made from the release's name: links, rules and files on a node are there
once, and so is Weftnet in a cluster.
*/}}

{{- define "weftnet.labels" -}}
{{ include "weftnet.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What selects the Pods of one component; never changes, since selectors cannot. */}}
{{- define "weftnet.selector" -}}
app.kubernetes.io/name: weftnet
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "weftnet.image" -}}
{{ printf "%s/%s:%s" .root.Values.image.registry .name (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}

{{- define "weftnet.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* host:port of the API server, with brackets around an IPv6 address. */}}
{{- define "weftnet.apiServer" -}}
{{- include "weftnet.requireAPIServer" . -}}
{{- $host := .Values.apiServer.host -}}
{{- if contains ":" $host }}[{{ $host }}]{{ else }}{{ $host }}{{ end }}:{{ .Values.apiServer.port }}
{{- end }}

{{/* Stops with an answer rather than a puzzle when nobody said where the API server is. */}}
{{- define "weftnet.requireAPIServer" -}}
{{- if not .Values.apiServer.host -}}
{{- $seen := list -}}
{{- $slice := lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes" -}}
{{- range $endpoint := ($slice.endpoints | default list) -}}
{{- $seen = concat $seen ($endpoint.addresses | default list) -}}
{{- end -}}
{{- $hint := ternary (printf "\n\n  In this cluster the API server answers at: %s\n" (join ", " $seen)) "" (gt (len $seen) 0) -}}
{{- fail (printf `apiServer.host is not set.

  Agents and operator must reach the API server before there is a Pod network, a Service proxy
  or DNS, so its Service address cannot be used. Give an address that every node reaches directly:

    kubeadm  --set apiServer.host=<host of controlPlaneEndpoint, or a control-plane node's IP> --set apiServer.port=6443
    k3s      --set apiServer.host=127.0.0.1 --set apiServer.port=6444

  "kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server}'" shows the one that you use.%s` $hint) -}}
{{- end -}}
{{- end }}

{{/* client-go finds the API server by these two; set by hand they win over the Service's. */}}
{{- define "weftnet.apiServerEnv" -}}
{{- include "weftnet.requireAPIServer" . -}}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .Values.apiServer.host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .Values.apiServer.port | quote }}
{{- end }}

{{/* The resources that the operator's first container applies, as one YAML stream. */}}
{{- define "weftnet.defaults" -}}
{{- range .Values.ipPools }}
---
apiVersion: weftnet.io/v1alpha1
kind: IPPool
metadata:
  name: {{ .name }}
spec:
  {{- omit . "name" | toYaml | nindent 2 }}
{{- end }}
---
apiVersion: weftnet.io/v1alpha1
kind: MeshConfig
metadata:
  name: default
spec:
  {{- toYaml .Values.meshConfig | nindent 2 }}
{{- end }}

{{/* The security context of a container that needs nothing from the node. */}}
{{- define "weftnet.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A hook after `helm uninstall`, with its weight: what a Job needs comes before it. */}}
{{- define "weftnet.hook" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
