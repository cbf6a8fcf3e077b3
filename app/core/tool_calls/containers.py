"""Command lines of kubectl and helm: which object, which release."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from app.core.tool_calls.effects import Effect, at_least, command_effect, nothing_differs, path_of
from app.core.tool_calls.parts import Risk
from app.core.tool_calls.words import Word, set_of
from app.core.types import JsonObject

MANIFEST: Final = "kubernetes/Manifest"
CLUSTER: Final = "kubernetes/Cluster"
RELEASE: Final = "helm/Release"

_VALUES: Final = set_of("""
    -n --namespace --context --cluster --kubeconfig -s --server --user --as --as-group --as-uid --token
    --request-timeout
    -o --output -l --selector --field-selector -f --filename -k --kustomize -c --container -p --patch --type --replicas
    --current-replicas --resource-version --timeout --grace-period --cascade --image --port --target-port --to-revision
    --revision --dry-run --sort-by --tail --since --since-time --for --template --overrides --restart --env --labels
    --annotations --name --from-file --from-literal --from-env-file --field-manager --subresource --min --max
    --cpu-percent -v --chunk-size --raw --limits --requests --serviceaccount --clusterrole --role --group --verb
    --resource --schedule --protocol --external-ip --load-balancer-ip --certificate-authority --client-key
    --client-certificate --tls-server-name --cache-dir --profile --patch-file --prune-allowlist --applyset
    """)
_FLAGS: Final = set_of("""
    -A --all-namespaces --all -w --watch --watch-only -R --recursive --force --now --ignore-not-found --wait --overwrite
    --show-labels --no-headers --local --server-side --prune --force-conflicts -i --stdin -t --tty -it -ti -q --quiet
    --follow -F --previous --timestamps --all-containers --ignore-daemonsets --delete-emptydir-data
    --disable-eviction --list --show-managed-fields --client --short --help -h --rm --record --save-config --validate
    --containers --minify --flatten --merge --insecure-skip-tls-verify --allow-missing-template-keys --no-wait --expose
    """)
# Options that say who asks whom, and with which programs: a file of configuration may name one for each question.
_STEERS: Final = set_of(
    """
    --kubeconfig --server -s --as --as-group --as-uid --token --cache-dir --insecure-skip-tls-verify
    --certificate-authority --client-key --client-certificate --tls-server-name --profile --user --cluster
    """
)
_READS: Final = set_of(
    "get describe logs top explain api-resources api-versions version cluster-info events wait diff kustomize options"
)
_CONNECTS: Final[Mapping[str, str]] = {
    "exec": "exec",
    "attach": "attach",
    "port-forward": "portforward",
    "proxy": "proxy",
    "debug": "exec",
    "cp": "exec",
}
_CHANGES: Final = set_of(
    "scale set label annotate patch edit autoscale expose taint cordon uncordon certificate rollout run create"
)
_READING_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "rollout": frozenset({"status", "history"}),
    "auth": frozenset({"can-i", "whoami"}),
    "config": frozenset({"view", "current-context", "get-contexts", "get-clusters", "get-users"}),
    "plugin": frozenset({"list"}),
}
_FILES: Final = frozenset({"-f", "--filename", "-k", "--kustomize"})
# To `kubectl logs` these are other options, without a value.
_FOLLOWING: Final = frozenset({"-f", "-p"})
# As the API server names what these do.
_ACTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("scale", "label", "annotate", "set", "taint", "cordon", "uncordon", "rollout"), "patch"),
    **dict.fromkeys(("edit", "replace"), "update"),
    "certificate": "approval",
    **dict.fromkeys(("run", "expose", "autoscale", "create"), "create"),
}
# Subcommands with a word of their own before the object.
_TWO_WORDS: Final = frozenset({"rollout", "set", "create", "certificate", "auth", "config", "plugin"})


class Kind(NamedTuple):
    """A kind of object, as the API server names it."""

    group: str
    version: str
    kind: str

    @property
    def type(self) -> str:
        """What `resource.type` says."""
        return f"{self.group or 'core'}/{self.kind}"

    @property
    def api_version(self) -> str:
        """What an object says."""
        return f"{self.group}/{self.version}" if self.group else self.version


_NAMES: Final = """
    - v1 Pod pods pod po
    - v1 Service services service svc
    - v1 Namespace namespaces namespace ns
    - v1 Secret secrets secret
    - v1 ConfigMap configmaps configmap cm
    - v1 Node nodes node no
    - v1 PersistentVolumeClaim persistentvolumeclaims persistentvolumeclaim pvc
    - v1 PersistentVolume persistentvolumes persistentvolume pv
    - v1 ServiceAccount serviceaccounts serviceaccount sa
    - v1 ReplicationController replicationcontrollers replicationcontroller rc
    - v1 Event events event ev
    - v1 Endpoints endpoints ep
    - v1 ResourceQuota resourcequotas resourcequota quota
    - v1 LimitRange limitranges limitrange limits
    apps v1 Deployment deployments deployment deploy
    apps v1 StatefulSet statefulsets statefulset sts
    apps v1 DaemonSet daemonsets daemonset ds
    apps v1 ReplicaSet replicasets replicaset rs
    batch v1 Job jobs job
    batch v1 CronJob cronjobs cronjob cj
    networking.k8s.io v1 Ingress ingresses ingress ing
    networking.k8s.io v1 NetworkPolicy networkpolicies networkpolicy netpol
    rbac.authorization.k8s.io v1 Role roles role
    rbac.authorization.k8s.io v1 RoleBinding rolebindings rolebinding
    rbac.authorization.k8s.io v1 ClusterRole clusterroles clusterrole
    rbac.authorization.k8s.io v1 ClusterRoleBinding clusterrolebindings clusterrolebinding
    autoscaling v2 HorizontalPodAutoscaler horizontalpodautoscalers horizontalpodautoscaler hpa
    policy v1 PodDisruptionBudget poddisruptionbudgets poddisruptionbudget pdb
    certificates.k8s.io v1 CertificateSigningRequest certificatesigningrequests certificatesigningrequest csr
    storage.k8s.io v1 StorageClass storageclasses storageclass sc
    apiextensions.k8s.io v1 CustomResourceDefinition customresourcedefinitions customresourcedefinition crd crds
    admissionregistration.k8s.io v1 ValidatingWebhookConfiguration validatingwebhookconfigurations
    admissionregistration.k8s.io v1 MutatingWebhookConfiguration mutatingwebhookconfigurations
    admissionregistration.k8s.io v1 ValidatingAdmissionPolicy validatingadmissionpolicies
"""


def _kinds() -> Mapping[str, Kind]:
    found: dict[str, Kind] = {}
    for line in _NAMES.strip().splitlines():
        group, version, name, *spellings = line.split()
        kind = Kind("" if group == "-" else group, version, name)
        for spelling in (*spellings, name.lower()):
            found[spelling] = kind
            if kind.group:
                found[f"{spelling}.{kind.group}"] = kind
    return found


_KINDS: Final = _kinds()
_VERSION: Final = re.compile(r"v[0-9]+(?:(?:alpha|beta)[0-9]+)?")
_CLUSTER_WIDE: Final = set_of("""
    Namespace Node PersistentVolume ClusterRole ClusterRoleBinding StorageClass CustomResourceDefinition
    ValidatingWebhookConfiguration MutatingWebhookConfiguration ValidatingAdmissionPolicy CertificateSigningRequest
    """)


def _kind(written: str) -> Kind | str:
    """The kind that is meant: `pods`, `deployments.apps`, `secrets.v1.`; a text where it is not known."""
    lowered = written.lower()
    if (found := _KINDS.get(lowered)) is not None:
        return found
    name, _, rest = lowered.partition(".")
    plain = _KINDS.get(name)
    version, dot, group = rest.partition(".")
    if plain is not None and (not rest or (_VERSION.fullmatch(version) and (group == plain.group or not dot))):
        return plain
    return written


# What stands behind `--` of these is the command line of another program; of all others it is operands.
_RUN_BEHIND: Final = frozenset({"exec", "run", "debug", "create"})
# Options with two names: whichever stands last counts.
_SAME: Final = {"--namespace": "-n", "--output": "-o"}


class _Line(NamedTuple):
    operands: tuple[Word, ...]
    options: Mapping[str, str | None]
    files: tuple[str, ...]
    known: bool


def _line(words: tuple[Word, ...], values: frozenset[str], flags: frozenset[str]) -> _Line:
    """Operands, options with their values, each file that is named; `known` where no word may be something else."""
    operands: list[Word] = []
    files: list[str] = []
    options: dict[str, str | None] = {}
    known = True
    at = 0
    while at < len(words):
        word = words[at]
        name, equals, value = word.text.partition("=")
        if word.static and word.text == "--":
            if not operands or operands[0].text not in _RUN_BEHIND:
                operands += words[at + 1 :]
                known = known and all(one.plain for one in words[at + 1 :])
            break
        if not word.static or not word.text.startswith("-") or word.text == "-":
            known = known and word.plain
            operands.append(word)
        elif equals and name.startswith("--"):
            known = known and name in values | flags
            options[_SAME.get(name, name)] = value
            if name in _FILES:
                files.append(value)
        elif word.text in values:
            at += 1
            if at >= len(words):
                known = False
            else:
                known = known and words[at].static
                options[_SAME.get(word.text, word.text)] = words[at].text
                if word.text in _FILES:
                    files.append(words[at].text)
        elif word.text in flags:
            options[word.text] = None
        elif len(word.text) > 2 and word.text[1] != "-" and word.text[:2] in values:
            options[word.text[:2]] = word.text[2:].removeprefix("=")
            if word.text[:2] in _FILES:
                files.append(word.text[2:].removeprefix("="))
        else:
            known = False
        at += 1
    return _Line(tuple(operands), options, tuple(files), known)


def kubectl(
    program: str, words: tuple[Word, ...], *, cwd: str | None, stdin: str | None, said: Mapping[str, Any]
) -> Iterator[Effect]:
    """Give one effect for each object that a command line names; an option that is not known makes it unknown."""
    del stdin
    follows = any(word.text == "logs" for word in words)
    line = _line(words, _VALUES - _FOLLOWING, _FLAGS | _FOLLOWING) if follows else _line(words, _VALUES, _FLAGS)
    if not line.known or not line.operands:
        yield command_effect(program, words, Risk.UNKNOWN if not line.known else Risk.READS, said=said)
        return
    verb, *operands = [word.text for word in line.operands]
    word = ""
    if verb in _TWO_WORDS and operands:
        word = operands.pop(0)
    destroys = (
        verb in {"delete", "drain"} or (verb == "replace" and "--force" in line.options) or "--prune" in line.options
    )
    if verb in _READS or word in _READING_WORDS.get(verb, frozenset()):
        # What a file names, a secret too, is shown; a path of the API can be any.
        known = not (line.options.keys() & _STEERS or "--raw" in line.options)
        known = known and not any("://" in one for one in (*operands, *line.files))
        shown = line.options.get("-o") or ""
        shows = (verb in {"get", "describe"} and bool(line.files)) or "file" in shown
        # A folder of a kustomization names others, and they repositories of anybody.
        shows = shows or verb == "kustomize" or "-k" in line.options or "--kustomize" in line.options
        risk = Risk.READS if known and not shows else Risk.UNKNOWN
    elif destroys:
        risk = Risk.DESTROYS
    elif verb in _CONNECTS:
        risk = Risk.UNKNOWN
    elif verb in _CHANGES or verb in {"apply", "replace"}:
        risk = Risk.CHANGES
    else:
        # A plugin, or `config set-cluster`: the line does not say what is reached.
        risk = Risk.UNKNOWN
    if line.options.keys() & _STEERS:
        risk = at_least(risk, Risk.UNKNOWN)
    about = {
        name.strip("-"): value
        for name in ("--context", "--cluster", "--server", "--kubeconfig", "--as", "--user")
        if (value := line.options.get(name)) is not None
    }
    namespace = line.options.get("-n")
    if "-A" in line.options or "--all-namespaces" in line.options:
        namespace = "*"
    files = line.files
    action = verb if risk is Risk.READS else _CONNECTS.get(verb, _ACTIONS.get(verb, verb))
    told = {"program": program, "verb": f"{verb} {word}" if word else verb}
    after: JsonObject = {"arguments": [one.text for one in words], **said}
    if files:
        for file in files:
            path = path_of(file, cwd) if file != "-" else file
            yield Effect(action, risk, MANIFEST, path, {"after": after}, about, told)
        return
    if verb == "create" and word:
        # A token is a part of the account that it is for.
        if word == "token":
            word, action = "serviceaccount", "token"
        operands = [word, *operands]
    elif verb == "certificate":
        operands = ["csr", *operands]
    objects = list(_objects(verb, word, operands))
    if not objects:
        change = nothing_differs({}) if risk is Risk.READS else {"after": after}
        yield Effect(action, risk, CLUSTER, about.get("context", "-"), change, about, told)
        return
    for kind, name in objects:
        of = kind.type if isinstance(kind, Kind) else f"kubernetes/{kind}"
        inside = None if isinstance(kind, Kind) and kind.kind in _CLUSTER_WIDE else namespace
        identifier = "/".join(part for part in (inside, name or "*") if part)
        many = verb == "delete" and not name
        yield Effect(
            "deletecollection" if many else action,
            risk,
            of,
            identifier,
            _change(verb, kind, inside, name, line),
            about,
            told,
        )


def _objects(verb: str, word: str, operands: list[str]) -> Iterator[tuple[Kind | str, str]]:
    """The objects that operands name: `TYPE NAME ...`, `TYPE/NAME ...`, `TYPE,TYPE`, or a pod by its name alone."""
    if verb in {"cordon", "uncordon", "drain"}:
        yield from ((_KINDS["node"], name) for name in operands)
        return
    if verb in {"exec", "attach", "logs", "port-forward", "debug", "cp", "run"} and operands:
        kind, slash, name = operands[0].partition("/")
        if verb == "cp":
            # One of both has `POD:PATH`.
            pods = [one.partition(":")[0].rpartition("/")[2] for one in operands if ":" in one]
            yield from ((_KINDS["pod"], name) for name in pods)
        elif slash:
            yield _kind(kind), name
        else:
            yield _KINDS["pod"], operands[0]
        return
    if verb in {
        "api-resources",
        "api-versions",
        "version",
        "cluster-info",
        "options",
        "explain",
        "proxy",
        "config",
        "auth",
    }:
        return
    if operands and "/" in operands[0]:
        for one in operands:
            kind, slash, name = one.partition("/")
            if slash:
                yield _kind(kind), name
        return
    if not operands:
        return
    names = operands[1:]
    if verb in {"label", "annotate", "taint", "set"}:
        names = [one for one in names if "=" not in one and not one.endswith("-")]
    if verb == "create":
        names = names[-1:]
    for kind in operands[0].split(","):
        found = _kind(kind)
        yield from ((found, name) for name in names or [""])
    del word


def _change(verb: str, kind: Kind | str, namespace: str | None, name: str, line: _Line) -> JsonObject:
    """What is known of the change; empty where the line does not say it whole."""
    if isinstance(kind, str):
        return {"after": {"arguments": [one.text for one in line.operands]}}
    metadata = {"name": name} if name else {}
    if namespace and namespace != "*":
        metadata["namespace"] = namespace
    known: JsonObject = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    if verb in _READS and name:
        return nothing_differs(known)
    if verb == "delete" and name:
        return {"before": known}
    replicas = line.options.get("--replicas")
    if verb == "scale" and replicas is not None and replicas.isascii() and replicas.isdigit() and len(replicas) < 10:
        return {"patch": [{"op": "replace", "path": "/spec/replicas", "value": int(replicas)}]}
    return {}


_HELM_VALUES: Final = set_of("""
    -n --namespace --kube-context --kubeconfig -f --values --set --set-string --set-file --set-json --version --repo
    --timeout -o --output --revision --max --history-max --description --wait-for --username --password --ca-file
    --cert-file --key-file --keyring --kube-apiserver --kube-token --kube-as-user --registry-config --cascade -l
    --filter
    """)
_HELM_FLAGS: Final = set_of("""
    -i --install --wait --atomic --create-namespace --dry-run --force --no-hooks --reuse-values --reset-values
    --cleanup-on-fail --debug -A --all-namespaces -a --all --devel --verify --keep-history --skip-crds --include-crds
    --dependency-update --ignore-not-found -g --generate-name -h --help --rollback-on-failure --wait-for-jobs -q --short
    """)
_HELM_READS: Final = set_of("list ls status get history hist show inspect search template lint version verify env")
_HELM_STEERS: Final = set_of(
    "--kubeconfig --kube-apiserver --kube-token --kube-as-user --ca-file --registry-config --repo"
)
_HELM_DESTROYS: Final = set_of("uninstall delete del un")
_HELM_CHANGES: Final = set_of("install upgrade rollback")


def helm(
    program: str, words: tuple[Word, ...], *, cwd: str | None, stdin: str | None, said: Mapping[str, Any]
) -> Iterator[Effect]:
    """Give what a command line of helm does to a release."""
    del stdin, cwd
    line = _line(words, _HELM_VALUES, _HELM_FLAGS)
    if not line.known or not line.operands or "--post-renderer" in line.options:
        yield command_effect(program, words, Risk.UNKNOWN if not line.known else Risk.READS, said=said)
        return
    verb, *operands = [word.text for word in line.operands]
    if verb in _HELM_READS:
        steered = bool(line.options.keys() & _HELM_STEERS) or any("://" in one for one in operands)
        yield command_effect(program, words, Risk.UNKNOWN if steered else Risk.READS, said=said)
        return
    if verb not in _HELM_CHANGES | _HELM_DESTROYS:
        # Charts, repositories, plugins: nothing of a cluster, but code that comes from elsewhere.
        yield command_effect(program, words, Risk.UNKNOWN if verb == "plugin" else Risk.RUNS, said=said)
        return
    destroys = verb in _HELM_DESTROYS or "--force" in line.options
    risk = Risk.DESTROYS if destroys else Risk.CHANGES
    if line.options.keys() & _HELM_STEERS - {"--repo"}:
        risk = at_least(risk, Risk.UNKNOWN)
    namespace = line.options.get("-n")
    names = operands if verb in _HELM_DESTROYS else operands[:1]
    if "-g" in line.options or "--generate-name" in line.options:
        names = []
    context = line.options.get("--kube-context")
    for name in names or ["*"]:
        yield Effect(
            "uninstall" if verb in _HELM_DESTROYS else verb,
            risk,
            RELEASE,
            "/".join(part for part in (namespace, name) if part),
            {"after": {"arguments": [word.text for word in words], **said}},
            {"context": context} if context else {},
            {"program": program},
        )
