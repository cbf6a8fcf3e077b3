{{/* What every object is called after: with the longest suffix, `-certificates`, as long as the name of a CronJob may be.
     Names of releases may have dots, those of Services may not. */}}
{{- define "mfw.name" -}}
{{- default .Chart.Name .Values.nameOverride | replace "." "-" | trunc 39 | trimSuffix "-" -}}
{{- end -}}

{{- define "mfw.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | replace "." "-" | trunc 39 | trimSuffix "-" -}}
{{- else if contains (include "mfw.name" .) .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 39 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "mfw.name" .) | replace "." "-" | trunc 39 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mfw.selector" -}}
app.kubernetes.io/name: {{ include "mfw.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "mfw.labels" -}}
{{ include "mfw.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The labels with `.more`, which goes before `commonLabels`: a key that stands twice is refused by strict readers. */}}
{{- define "mfw.labelsAnd" -}}
{{- toYaml (merge (deepCopy .more) (include "mfw.labels" .root | fromYaml)) -}}
{{- end -}}

{{- define "mfw.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mfw.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Of an image's repository, tag and digest, the digest if there is one. */}}
{{- define "mfw.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "mfw.tls" -}}
{{- if ne .Values.tls.source "none" -}}true{{- end -}}
{{- end -}}

{{- define "mfw.tlsSecret" -}}
{{- default (printf "%s-tls" (include "mfw.fullname" .)) .Values.tls.secretName -}}
{{- end -}}

{{/* Who reads metrics where the cluster is looked at: `operator` or `annotations`. */}}
{{- define "mfw.detected" -}}
{{- if .Values.metrics.detect -}}
{{- ternary "operator" "annotations" (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") -}}
{{- end -}}
{{- end -}}

{{/* Annotations of the pods that show metrics; what somebody says goes before what is found. */}}
{{- define "mfw.podAnnotations" -}}
{{- $annotations := deepCopy .Values.podAnnotations -}}
{{- if eq (include "mfw.detected" .) "annotations" -}}
{{- $annotations = merge $annotations (dict "prometheus.io/scrape" "true" "prometheus.io/port" "9090" "prometheus.io/path" "/metrics") -}}
{{- end -}}
{{- toYaml $annotations -}}
{{- end -}}

{{/* Whether the pods of the service speak to the API server. */}}
{{- define "mfw.usesApiServer" -}}
{{- $own := hasPrefix "/var/run/secrets/kubernetes.io/serviceaccount/" (default "" .Values.settings.MFW_AUTH__JWT__TOKEN_FILE) -}}
{{- if or .Values.canary.enabled $own (contains "label=" (default "" .Values.settings.MFW_KUBERNETES__AGENTS)) -}}true{{- end -}}
{{- end -}}

{{/* Rules of network policies: where names are looked up. */}}
{{- define "mfw.dns" -}}
{{- with .Values.networkPolicy.dns }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* Where an API server is: it has no label to be told by, and answers on one of these ports. Without any it is nowhere, for
     a rule without ports would be about all of them. */}}
{{- define "mfw.apiServer" -}}
{{- with .Values.networkPolicy.apiServerPorts -}}
- ports: {{- range . }}
    - {port: {{ int . }}, protocol: TCP}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Of the controller: its account, its Lease, and whatever else is in the namespace of the release. */}}
{{- define "mfw.controller" -}}
{{- printf "%s-controller" (include "mfw.fullname" .) -}}
{{- end -}}

{{/* Where the authority of the service's certificate is. */}}
{{- define "mfw.authority" -}}
{{- if .Values.controller.authority -}}
{{- toYaml .Values.controller.authority -}}
{{- else -}}
{{- toYaml (dict "name" (include "mfw.tlsSecret" .) "key" "ca.crt") -}}
{{- end -}}
{{- end -}}

{{/* The secret settings, with the one that the chart's own PostgreSQL makes. */}}
{{- define "mfw.secrets" -}}
{{- $all := deepCopy .Values.secretSettings -}}
{{- if .Values.postgresql.enabled -}}
{{- $_ := set $all "MFW_DATABASE__URL" (dict "name" (printf "%s-postgresql" (include "mfw.fullname" .)) "key" "url") -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* Of them, those of `.root` that somebody needs: with `.database` those that say where the database is. */}}
{{- define "mfw.secretsOf" -}}
{{- $all := fromYaml (include "mfw.secrets" .root) -}}
{{- if .database -}}
{{- range $name := keys $all -}}
{{- if not (hasPrefix "MFW_DATABASE__" $name) -}}{{- $_ := unset $all $name -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* What is wrong with the values, said before anything is made. */}}
{{- define "mfw.check" -}}
{{- $name := include "mfw.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "`%s` cannot be the name of a Service, which has small letters, digits and `-` and begins with a letter: set fullnameOverride to one that can" $name) -}}
{{- end -}}
{{- $secrets := fromYaml (include "mfw.secrets" .) -}}
{{- $production := eq .Values.environment "production" -}}
{{- if not (hasKey $secrets "MFW_DATABASE__URL") -}}
{{- fail "secretSettings.MFW_DATABASE__URL is needed: {name: SECRET, key: KEY} of a Secret with a postgresql:// URL; for a trial use values-quickstart.yaml" -}}
{{- end -}}
{{- if and .Values.postgresql.enabled $production -}}
{{- fail "postgresql.enabled is for trials: set environment to development, or bring a PostgreSQL with TLS and backups" -}}
{{- end -}}
{{- if and .Values.postgresql.enabled (hasKey .Values.secretSettings "MFW_DATABASE__URL") -}}
{{- fail "postgresql.enabled and secretSettings.MFW_DATABASE__URL both name a database: leave one out" -}}
{{- end -}}
{{- if and $production (not (hasKey $secrets "MFW_LEDGER__SIGNING_KEY")) -}}
{{- fail "secretSettings.MFW_LEDGER__SIGNING_KEY is needed in production: make one with `mfw ledger keygen`" -}}
{{- end -}}
{{- if and $production (not .Values.ledgerOrigin) -}}
{{- fail "ledgerOrigin is needed in production: the name of the log, for good, such as firewall.example.com/ledger" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- $most := ternary .Values.autoscaling.maxReplicas .Values.replicas .Values.autoscaling.enabled | int -}}
{{- if and $production (gt $most 1) (not (hasKey $secrets "MFW_LIMITS__REDIS_URL")) -}}
{{- fail "secretSettings.MFW_LIMITS__REDIS_URL is needed where there may be several replicas: they share their rate limits there; or run one replica" -}}
{{- end -}}
{{- range $name := list "MFW_DATABASE__URL" "MFW_DATABASE__DIRECT_URL" "MFW_LEDGER__SIGNING_KEY" "MFW_LEDGER__PREVIOUS_SIGNING_KEY" "MFW_LEDGER__MASK_KEY" "MFW_LIMITS__REDIS_URL" "MFW_AUTH__API_KEYS__BOOTSTRAP" "MFW_AUTH__JWT__SECRET" "MFW_AUTH__JWT__PREVIOUS_SECRET" "MFW_AUTHZEN__SIGNING_KEY" "MFW_KUBERNETES__CANARY__KEY" "MFW_GITHUB__WEBHOOK_SECRET" "MFW_GITHUB__PREVIOUS_WEBHOOK_SECRET" "MFW_GITHUB__PRIVATE_KEY" "MFW_GITHUB__TOKEN" -}}
{{- if hasKey $.Values.settings $name -}}
{{- fail (printf "settings.%s is secret: put it into a Secret and name that in secretSettings" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.settings -}}
{{- if has $name (list "MFW_ENVIRONMENT" "MFW_HTTP__HOST" "MFW_HTTP__PORT" "MFW_METRICS__HOST" "MFW_METRICS__PORT" "MFW_TLS__PORT" "MFW_LEDGER__ORIGIN" "MFW_LIMITS__REPLICAS" "MFW_POLICIES__SOURCE" "MFW_POLICIES__DIRECTORY") -}}
{{- fail (printf "settings.%s is set by the chart" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.policies.source "files") (not .Values.policies.files) -}}
{{- fail "policies.files is empty: nothing would be allowed; name some, or choose another policies.source" -}}
{{- end -}}
{{- if and (eq .Values.policies.source "configMap") (not .Values.policies.configMap) -}}
{{- fail "policies.configMap is needed for policies.source configMap" -}}
{{- end -}}
{{- if and .Values.webhook.enabled (not (include "mfw.tls" .)) -}}
{{- fail "webhook.enabled needs TLS: set tls.source to secret, certManager or own" -}}
{{- end -}}
{{- if and .Values.webhook.enabled (not .Values.webhook.rules) -}}
{{- fail "webhook.rules is empty: render those that fit your policies with `mfw kubernetes webhook-config`" -}}
{{- end -}}
{{- if and .Values.webhook.enabled (eq .Values.tls.source "secret") (not .Values.webhook.caBundle) -}}
{{- fail "webhook.caBundle is needed for tls.source secret: the PEM of the authority that made the certificate" -}}
{{- end -}}
{{- if and (eq .Values.tls.source "certManager") (not .Values.tls.issuerRef) -}}
{{- fail "tls.issuerRef is needed for tls.source certManager: {name: ..., kind: Issuer}" -}}
{{- end -}}
{{- if and .Values.canary.enabled (not (hasKey $secrets "MFW_KUBERNETES__CANARY__KEY")) -}}
{{- fail "secretSettings.MFW_KUBERNETES__CANARY__KEY is needed for canary.enabled: `openssl rand -hex 32`" -}}
{{- end -}}
{{- if and .Values.canary.enabled (eq .Values.environment "production") (not (get .Values.settings "MFW_KUBERNETES__API_SERVERS")) -}}
{{- fail "settings.MFW_KUBERNETES__API_SERVERS is needed for canary.enabled: the principal of the API server's credential, such as `kube-apiserver`" -}}
{{- end -}}
{{- if and .Values.canary.enabled (not .Values.webhook.enabled) -}}
{{- fail "canary.enabled tries the webhook: set webhook.enabled" -}}
{{- end -}}
{{- if and .Values.controller.enabled (ne .Values.policies.source "database") -}}
{{- fail "controller.enabled activates policy sets: set policies.source to database" -}}
{{- end -}}
{{- if and .Values.controller.enabled (not .Values.controller.apiKey) -}}
{{- fail "controller.apiKey is needed: {name: SECRET, key: KEY} with what `mfw keys create controller --role admin` prints" -}}
{{- end -}}
{{- if and .Values.controller.enabled (eq .Values.tls.source "secret") (not .Values.controller.authority) -}}
{{- fail "controller.authority is needed for tls.source secret: {name: SECRET, key: KEY} with the PEM of the authority that made the certificate" -}}
{{- end -}}
{{- if and .Values.controller.enabled (eq "required" (default "" .Values.settings.MFW_TLS__CLIENT_CERTIFICATES)) -}}
{{- fail "controller.enabled shows no certificate: leave settings.MFW_TLS__CLIENT_CERTIFICATES out, or run `mfw controller` elsewhere" -}}
{{- end -}}
{{- if eq "none" (default "" .Values.settings.MFW_TLS__PLAIN_HTTP) -}}
{{- fail "settings.MFW_TLS__PLAIN_HTTP none would close the port of the probes: leave it out, and health alone is answered there" -}}
{{- end -}}
{{- if and .Values.archive.enabled (not .Values.backup.enabled) -}}
{{- fail "archive.enabled needs backup.enabled: archives lie on the volume of the backups" -}}
{{- end -}}
{{- end -}}

{{/* Restricted Pod Security. */}}
{{- define "mfw.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "mfw.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Settings, those of the chart itself before those of the values. `.url` is where the URL of another database role is:
     PostgreSQL itself, whatever pooler the service has. With `.database` they are those that say where the database is, and
     the name of the log. */}}
{{- define "mfw.env" -}}
{{- $root := .root -}}
{{- $all := not .database -}}
{{- $secrets := fromYaml (include "mfw.secretsOf" .) -}}
{{- with .url -}}{{- $_ := set $secrets "MFW_DATABASE__DIRECT_URL" . -}}{{- end -}}
- {name: MFW_ENVIRONMENT, value: {{ $root.Values.environment | quote }}}
{{- if $all }}
- {name: MFW_HTTP__HOST, value: "0.0.0.0"}
- {name: MFW_HTTP__PORT, value: "8080"}
- {name: MFW_METRICS__HOST, value: "0.0.0.0"}
- {name: MFW_METRICS__PORT, value: "9090"}
{{- end }}
{{- with $root.Values.ledgerOrigin }}
- {name: MFW_LEDGER__ORIGIN, value: {{ . | quote }}}
{{- end }}
{{- if $all }}
- {name: MFW_LIMITS__REPLICAS, value: {{ ternary $root.Values.autoscaling.maxReplicas $root.Values.replicas $root.Values.autoscaling.enabled | int | max 1 | quote }}}
{{- if eq $root.Values.policies.source "database" }}
- {name: MFW_POLICIES__SOURCE, value: database}
{{- else }}
- {name: MFW_POLICIES__SOURCE, value: directory}
- {name: MFW_POLICIES__DIRECTORY, value: {{ ternary "/opt/mutation-firewall/policies/starter" "/etc/mutation-firewall/policies" (eq $root.Values.policies.source "starter") }}}
{{- end }}
{{- if include "mfw.tls" $root }}
- {name: MFW_TLS__CERTIFICATE_FILE, value: /run/secrets/tls/tls.crt}
- {name: MFW_TLS__KEY_FILE, value: /run/secrets/tls/tls.key}
- {name: MFW_TLS__PORT, value: "8443"}
{{- end }}
{{- if $root.Values.canary.enabled }}
- {name: MFW_KUBERNETES__CANARY__NAMESPACE, value: {{ $root.Values.canary.namespace | quote }}}
{{- end }}
{{- if not (or $root.Values.settings.MFW_ERROR_TRACKING $root.Values.settings.MFW_TRACING__ENDPOINT) }}
- {name: MFW_ERROR_TRACKING, value: logs}
{{- end }}
{{- end }}
{{- range $name, $value := $root.Values.settings }}
{{- if or $all (hasPrefix "MFW_DATABASE__" $name) }}
- {name: {{ $name | quote }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}
{{- range $name := keys $secrets | sortAlpha }}
- {name: {{ $name }}_FILE, value: /run/secrets/mfw/{{ $name }}}
{{- end }}
{{- if $root.Values.databaseAuthority }}
# Read by the driver, and by pg_dump and pg_restore.
- {name: PGSSLROOTCERT, value: /run/secrets/mfw/database-ca.crt}
{{- end }}
{{- end -}}

{{/* The secret settings as one folder of files, which the group of the pod reads: 288 is 0440, which not every reader of
     YAML takes for octal. `.url` is from where the database's URL comes instead. */}}
{{- define "mfw.secretVolume" -}}
{{- $secrets := fromYaml (include "mfw.secretsOf" .) -}}
{{- with .url -}}
{{- $_ := set $secrets "MFW_DATABASE__URL" . -}}
{{- $_ := set $secrets "MFW_DATABASE__DIRECT_URL" . -}}
{{- end -}}
- name: secrets
  projected:
    defaultMode: 288
    sources:
      {{- range $name := keys $secrets | sortAlpha }}
      {{- $from := get $secrets $name }}
      - secret: {name: {{ $from.name | quote }}, items: [{key: {{ $from.key | quote }}, path: {{ $name }}}]}
      {{- end }}
      {{- with .root.Values.databaseAuthority }}
      - secret: {name: {{ .name | quote }}, items: [{key: {{ .key | quote }}, path: database-ca.crt}]}
      {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- end -}}

{{- define "mfw.jobVolumeMounts" -}}
- {name: secrets, mountPath: /run/secrets/mfw, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* With what an image is pulled, and where a pod may run: the same for every pod of the chart. */}}
{{- define "mfw.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - {name: {{ . | quote }}}
{{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What the pods of jobs have in common; `.component`, `.url`. */}}
{{- define "mfw.jobPod" -}}
serviceAccountName: {{ include "mfw.serviceAccount" .root | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
securityContext: {{- include "mfw.podSecurity" .root | nindent 2 }}
{{- include "mfw.placement" .root }}
{{- end -}}

{{/* The migration job, without its name, which is made of it: what its programs do not read is not in it, or each change of
     that would be another backup and another migration. */}}
{{- define "mfw.migration" -}}
{{- $url := .root.Values.migrations.databaseUrl -}}
activeDeadlineSeconds: {{ int .root.Values.migrations.activeDeadlineSeconds }}
backoffLimit: {{ int .root.Values.migrations.backoffLimit }}
template:
  metadata:
    labels: {{- include "mfw.labels" .root | nindent 6 }}
      app.kubernetes.io/component: migration
  spec:
    {{- include "mfw.jobPod" (dict "root" .root) | nindent 4 }}
    {{- if and .root.Values.backup.enabled .root.Values.migrations.backupBefore }}
    initContainers:
      - name: backup
        image: {{ .backupImage | quote }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        args: [backup, create, --before-migration, --wait, "300", --dir, /backups, --keep-days, {{ int .root.Values.backup.keepDays | quote }}]
        env: {{- include "mfw.env" (dict "root" .root "url" $url "database" true) | nindent 10 }}
        resources: {{- toYaml .root.Values.backup.resources | nindent 10 }}
        securityContext: {{- include "mfw.containerSecurity" .root | nindent 10 }}
        volumeMounts:
          {{- include "mfw.jobVolumeMounts" .root | nindent 10 }}
          - {name: backups, mountPath: /backups}
    {{- end }}
    containers:
      - name: migrate
        image: {{ .image | quote }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        # The database may be on its way as well: a trial's own comes up beside this.
        command: [python, -m, app.migrations.apply, --wait, "300"{{ if .root.Values.migrations.beforeRollout }}, --before-rollout{{ end }}]
        env: {{- include "mfw.env" (dict "root" .root "url" $url "database" true) | nindent 10 }}
        resources: {{- toYaml .root.Values.migrations.resources | nindent 10 }}
        securityContext: {{- include "mfw.containerSecurity" .root | nindent 10 }}
        terminationMessagePolicy: FallbackToLogsOnError
        volumeMounts: {{- include "mfw.jobVolumeMounts" .root | nindent 10 }}
    volumes:
      {{- include "mfw.secretVolume" (dict "root" .root "url" $url "database" true) | nindent 6 }}
      {{- if and .root.Values.backup.enabled .root.Values.migrations.backupBefore }}
      - name: backups
        persistentVolumeClaim: {claimName: {{ .claim | quote }}}
      {{- end }}
{{- end -}}

{{/* The pods that make and renew the certificate; `.image`. */}}
{{- define "mfw.certificates" -}}
{{- $name := include "mfw.fullname" .root -}}
metadata:
  labels: {{- include "mfw.labels" .root | nindent 4 }}
    app.kubernetes.io/component: certificates
spec:
  serviceAccountName: {{ $name }}-certificates
  enableServiceLinks: false
  restartPolicy: OnFailure
  securityContext: {{- include "mfw.podSecurity" .root | nindent 4 }}
  {{- with include "mfw.placement" .root | trim }}{{ . | nindent 2 }}{{ end }}
  containers:
    - name: certificates
      image: {{ .image | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args:
        - kubernetes
        - certificates
        - --service={{ .root.Release.Namespace }}/{{ $name }}
        - --secret={{ include "mfw.tlsSecret" .root }}
        - {{ ternary (printf "--webhook=%s" $name) "--no-webhook" .root.Values.webhook.enabled }}
      resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {cpu: 500m, memory: 256Mi}}
      securityContext: {{- include "mfw.containerSecurity" .root | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts: [{name: tmp, mountPath: /tmp}]
  volumes: [{name: tmp, emptyDir: {sizeLimit: 16Mi}}]
{{- end -}}

{{/* Whether the values say by which authority the API server checks the certificate: else who makes it announces that. */}}
{{- define "mfw.announced" -}}
{{- if and .Values.webhook.caBundle (has .Values.tls.source (list "secret" "certManager")) -}}true{{- end -}}
{{- end -}}

{{/* How the API server reaches the webhook. */}}
{{- define "mfw.webhookClient" -}}
service: {namespace: {{ .Release.Namespace | quote }}, name: {{ include "mfw.fullname" . | quote }}, port: {{ .Values.service.tlsPort }}, path: /kubernetes/v1/validate}
{{- if include "mfw.announced" . }}
caBundle: {{ .Values.webhook.caBundle | b64enc }}
{{- end }}
{{- end -}}
