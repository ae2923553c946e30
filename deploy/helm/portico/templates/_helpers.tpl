{{/* The prefix of all names. */}}
{{- define "portico.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of a component's objects. Argument: (list . "agent"). */}}
{{- define "portico.name" -}}
{{- printf "%s-%s" (include "portico.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* The selector labels of a component's pods, which never change. Argument: (list . "agent"). */}}
{{- define "portico.selector" -}}
app.kubernetes.io/name: {{ default (index . 0).Chart.Name (index . 0).Values.nameOverride }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/*
The labels of an object. Argument: (list . "agent"). The webhook never mutates pods with this part-of label: otherwise
an agent could depend on a webhook that depends on the agent.
*/}}
{{- define "portico.labels" -}}
{{ include "portico.selector" . }}
app.kubernetes.io/part-of: portico
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The metadata of an object in the release namespace. Argument: (list . "agent"). */}}
{{- define "portico.metadata" -}}
name: {{ include "portico.name" . }}
namespace: {{ (index . 0).Release.Namespace }}
{{ include "portico.labelled" . }}
{{- end -}}

{{/* Labels and annotations of an object. Argument: (list . "agent"), optionally with further annotations. */}}
{{- define "portico.labelled" -}}
labels:
  {{- include "portico.labels" . | nindent 2 }}
{{- $annotations := (index . 0).Values.commonAnnotations }}
{{- if gt (len .) 2 }}
{{- $annotations = merge (dict) (index . 2) $annotations }}
{{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
Labels and annotations of a component's pods. Argument: (list . "agent" .Values.agent). They contain no versions, so that
a new version of the chart by itself does not restart pods.
*/}}
{{- define "portico.podLabelled" -}}
{{- $values := index . 2 -}}
labels:
  {{- include "portico.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: portico
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) $values.podAnnotations (index . 0).Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An image reference. Argument: (list . .Values.agent.image). */}}
{{- define "portico.image" -}}
{{- $image := index . 1 -}}
{{- printf "%s:%s" $image.repository (default (index . 0).Chart.AppVersion $image.tag) -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* The service account of a component. Argument: (list . "agent" .Values.agent). */}}
{{- define "portico.serviceAccount" -}}
{{- $account := (index . 2).serviceAccount -}}
{{- if $account.create -}}
{{- default (include "portico.name" .) $account.name -}}
{{- else -}}
{{- required "serviceAccount.name is required if serviceAccount.create is false" $account.name -}}
{{- end -}}
{{- end -}}

{{/* The common part of a pod specification. Argument: (list . "agent" .Values.agent). */}}
{{- define "portico.pod" -}}
{{- $values := index . 2 -}}
serviceAccountName: {{ include "portico.serviceAccount" . }}
# Only the container that needs the token mounts it, from a volume below.
automountServiceAccountToken: false
# No program here uses service links.
enableServiceLinks: false
priorityClassName: {{ $values.priorityClassName }}
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The volume with the token of the service account. Argument: the component's values. */}}
{{- define "portico.tokenVolume" -}}
name: token
projected:
  # 0440 in decimal, because YAML parsers interpret octal numbers differently.
  defaultMode: 288
  sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: {{ .tokenExpirationSeconds }}
    - configMap:
        name: kube-root-ca.crt
        items:
          - key: ca.crt
            path: ca.crt
    - downwardAPI:
        items:
          - path: namespace
            fieldRef:
              fieldPath: metadata.namespace
{{- end -}}

{{/* The mount path that client libraries expect. */}}
{{- define "portico.tokenMount" -}}
name: token
mountPath: /var/run/secrets/kubernetes.io/serviceaccount
readOnly: true
{{- end -}}

{{/* The namespaces whose pods the webhook never mutates, as YAML. */}}
{{- define "portico.exceptNamespaces" -}}
{{- concat (list "kube-system" .Release.Namespace) .Values.webhook.registration.exceptNamespaces | uniq | sortAlpha | toYaml -}}
{{- end -}}

{{/* The Secret with the webhook's certificate. The webhook derives the same name from its own name. */}}
{{- define "portico.tlsSecret" -}}
{{- $own := printf "%s-tls" (include "portico.name" (list . "webhook")) -}}
{{- if eq .Values.webhook.tls.mode "secret" -}}
{{- required "webhook.tls.secretName is required if webhook.tls.mode is secret" .Values.webhook.tls.secretName -}}
{{- else -}}
{{- $own -}}
{{- end -}}
{{- end -}}

{{/* Not empty if the webhook itself sets the CA bundle in its registration. */}}
{{- define "portico.fillsCaBundle" -}}
{{- $tls := .Values.webhook.tls -}}
{{- if or (eq $tls.mode "self-signed") (and (eq $tls.mode "secret") $tls.caInSecret (not $tls.caBundle)) }}yes{{ end -}}
{{- end -}}

{{/* The user name of the webhook at the API server, as a CEL string. */}}
{{- define "portico.webhookUser" -}}
'system:serviceaccount:{{ .Release.Namespace }}:{{ include "portico.serviceAccount" (list . "webhook" .Values.webhook) }}'
{{- end -}}
