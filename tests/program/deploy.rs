//! The files in `deploy`: rendered, validated, and compared with each other and with the built nodens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::support::client::lookup;
use crate::support::space::can_run;
use crate::support::{Dir, Nodens, config, serve, upstream, zone};
use serde_json::Value;

const OVERLAYS: [&str; 7] =
    ["link-local", "transparent", "kubelet-clusterdns", "pod-network", "cilium-lrp", "prometheus-operator", "canary"];
/// Oldest and newest supported version of Kubernetes.
const VERSIONS: &str = "1.30,1.37";
/// Versions from 1.36 on.
const ADMISSION: &str = "1.36,1.37";
/// Memory of nodens besides its cache and its workers; the latter take `WORKER` each. See `app::memory_limit`.
const BESIDES: u64 = 44 << 20;
const WORKER: u64 = 1 << 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tools() -> PathBuf {
    root().join("target/tools")
}

/// An independent validator accepts every configuration of the repository, and rejects one with a mistake.
#[test]
fn the_schema_accepts_every_configuration() {
    if !has_tools() {
        return;
    }
    let dir = Dir::new();
    let schema = dir.write("schema.json", &run(Command::new(env!("CARGO_BIN_EXE_nodens")).arg("schema")));
    let mut files = vec![root().join("config/nodens.toml"), root().join("config/minimal.toml")];
    files.extend(
        OVERLAYS
            .iter()
            .filter(|name| **name != "canary")
            .map(|name| root().join(format!("deploy/kustomize/overlays/{name}/nodens.toml"))),
    );
    let clouds = fs::read_dir(root().join("config/examples")).expect("examples");
    files.extend(clouds.map(|file| file.expect("a file").path()));
    files.extend(["laptop", "hybrid", "untrusted-jobs"].map(|name| root().join(format!("examples/{name}.toml"))));
    let broken = [
        ("[server]\nlistne = [\"127.0.0.1\"]\n", "unknown key"),
        ("[server]\nworkers = 9999\n", "out of bounds"),
        ("[upstreams.up]\nselect = \"ordered\"\n", "required key"),
        ("[cache]\nstale = \"an hour\"\n", "no duration"),
        ("[[route]]\nzones = \".\"\nto = \"up\"\n", "no list"),
        ("[query_log]\nto = \"stdout\"\nonly = \"some\"\n", "no such word"),
    ];
    let wrong: Vec<_> =
        (0..).zip(broken).map(|(number, (text, _))| dir.write(&format!("{number}.toml"), text)).collect();
    let validate = |files: &[PathBuf]| {
        let mut command = Command::new(tools().join("python/bin/python"));
        run(command.arg(root().join("tests/deploy/schema.py")).arg(&schema).args(files))
    };
    assert_eq!(validate(&files), "", "valid files");
    let found = validate(&wrong);
    for (file, (text, what)) in wrong.iter().zip(broken) {
        assert!(found.contains(&format!("{}: ", file.display())), "{what}: {text}: {found}");
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Returns whether tests/deploy/install has been run.
fn has_tools() -> bool {
    let missing = ["bin/kubectl", "python/bin/python", "npm/node_modules/@kubernetes-models/cilium"]
        .into_iter()
        .find(|tool| !tools().join(tool).exists());
    match missing {
        None => can_run(false, &["node"]),
        Some(_) => can_run(false, &["tests/deploy/install to have been run"]),
    }
}

/// Runs a command that must succeed, and returns its output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Renders folders of deploy/kustomize; their objects must be valid in these versions of Kubernetes.
fn render(folders: &[&str], versions: &str) -> BTreeMap<String, Vec<Value>> {
    let mut command = Command::new(tools().join("python/bin/python"));
    command.arg(root().join("tests/deploy/render.py")).arg(tools().join("bin/kubectl")).arg(versions);
    let text = run(command.args(folders).current_dir(root().join("deploy/kustomize")));
    serde_json::from_str(&text).expect("JSON")
}

static RENDERED: LazyLock<BTreeMap<String, Vec<Value>>> = LazyLock::new(|| {
    let folders: Vec<_> = OVERLAYS.iter().map(|overlay| format!("overlays/{overlay}")).collect();
    render(&folders.iter().map(String::as_str).collect::<Vec<_>>(), VERSIONS)
});

/// The policies for namespaces of job pods, one in each folder.
static JOBS: LazyLock<BTreeMap<String, Vec<Value>>> = LazyLock::new(|| {
    let folders = ["", "/pod-network", "/cilium-lrp", "/cilium-host"].map(|folder| format!("job-namespace{folder}"));
    render(&folders.each_ref().map(String::as_str), VERSIONS)
});

/// Returns the objects of a kind, with their overlay.
fn all(kind: &str) -> Vec<(&'static str, &'static Value)> {
    let of = |overlay: &&'static str| {
        let objects = &RENDERED[&format!("overlays/{overlay}")];
        let overlay = *overlay;
        objects.iter().filter(|object| object["kind"] == kind).map(move |object| (overlay, object)).collect::<Vec<_>>()
    };
    OVERLAYS.iter().flat_map(of).collect()
}

/// Returns the overlay, object and configuration of each DaemonSet.
fn configs() -> Vec<(&'static str, &'static Value, &'static str)> {
    let of = |(overlay, set): (&'static str, &'static Value)| {
        let volumes = set["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes");
        let name = volumes.iter().find_map(|volume| volume["configMap"]["name"].as_str()).expect("a ConfigMap");
        let maps = all("ConfigMap");
        let map = maps.iter().find(|(other, map)| *other == overlay && map["metadata"]["name"] == name);
        let map = map.unwrap_or_else(|| panic!("{overlay} lacks {name}")).1;
        assert_eq!(map["metadata"]["namespace"], set["metadata"]["namespace"], "{overlay}");
        (overlay, set, map["data"]["nodens.toml"].as_str().expect("a configuration"))
    };
    all("DaemonSet").into_iter().map(of).collect()
}

fn table(config: &str) -> toml::Table {
    config.parse().expect("TOML")
}

/// Converts a Kubernetes quantity in Mi to bytes.
fn mebibytes(quantity: &Value) -> u64 {
    let number = quantity.as_str().and_then(|text| text.strip_suffix("Mi")).expect("a quantity in Mi");
    number.parse::<u64>().expect("a number") << 20
}

#[test]
fn every_overlay_is_valid() {
    if !has_tools() {
        return;
    }
    assert_eq!(RENDERED.len(), OVERLAYS.len());
    let mut custom: Vec<_> = ["CiliumLocalRedirectPolicy", "PrometheusRule", "ServiceMonitor"]
        .iter()
        .flat_map(|kind| all(kind).into_iter().map(|(_, object)| object))
        .collect();
    custom.extend(JOBS.values().flatten().filter(|object| object["kind"] == "CiliumNetworkPolicy"));
    assert_eq!(custom.len(), 5);
    let mut command = Command::new("node");
    // node looks for modules beside the program.
    let program = tools().join("npm/custom.mjs");
    fs::copy(root().join("tests/deploy/custom.mjs"), &program).expect("copies");
    let mut node = command.arg(program).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("node runs");
    let text = serde_json::to_vec(&custom).expect("JSON");
    node.stdin.take().expect("piped").write_all(&text).expect("writes");
    let output = node.wait_with_output().expect("node ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Protocols and ports that jobs need.
const JOB_PORTS: [(&str, &str); 3] = [("UDP", "53"), ("TCP", "53"), ("TCP", "9355")];

/// Label under which Cilium has the namespace of a pod.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// Returns the addresses that nodens puts on the node in any overlay, as blocks.
fn node_blocks() -> BTreeSet<String> {
    let config = table(&read("deploy/kustomize/overlays/transparent/nodens.toml"));
    let addresses = config["node"]["addresses"].as_array().expect("a list").iter();
    let addresses = addresses.map(|ip| ip.as_str().expect("text"));
    addresses.map(|ip| format!("{ip}/{}", if ip.contains(':') { 128 } else { 32 })).collect()
}

/// Returns the protocols and ports of a list; Cilium has the ports as text.
fn protocols_and_ports(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.as_array().expect("a list").iter().map(|port| (text(&port["protocol"]), text(&port["port"]))).collect()
}

/// Compares protocols and ports with those expected.
fn admits_ports(list: &Value, expected: &[(&str, &str)]) {
    let found = protocols_and_ports(list);
    let found: Vec<_> = found.iter().map(|(protocol, port)| (protocol.as_str(), port.as_str())).collect();
    assert_eq!(found, expected);
}

/// Returns whether a selector of labels, whose keys may have the prefix of Cilium, selects these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().expect("labels");
    let selector = selector.iter().map(|(key, value)| (key.strip_prefix("k8s:").unwrap_or(key), value));
    selector.filter(|(key, _)| *key != NAMESPACE).all(|(key, value)| labels[key] == *value)
}

#[test]
fn job_policies_admit_the_addresses_of_the_node() {
    if !has_tools() {
        return;
    }
    let policy = &JOBS["job-namespace"][0];
    assert_eq!(policy["kind"], "NetworkPolicy");
    assert_eq!(policy["spec"]["policyTypes"][0], "Egress");
    let egress = &policy["spec"]["egress"][0];
    let blocks = egress["to"].as_array().expect("a list").iter();
    let blocks = blocks.map(|to| to["ipBlock"]["cidr"].as_str().expect("a block").to_owned());
    assert_eq!(blocks.collect::<BTreeSet<_>>(), node_blocks());
    admits_ports(&egress["ports"], &JOB_PORTS);
    let fallback = &policy["spec"]["egress"][1];
    assert_eq!(fallback["to"][0]["podSelector"]["matchLabels"]["k8s-app"], "kube-dns");
    admits_ports(&fallback["ports"], &JOB_PORTS[..2]);

    let policy = &JOBS["job-namespace/cilium-host"][0];
    assert_eq!(policy["kind"], "CiliumNetworkPolicy");
    let rules = policy["spec"]["egress"].as_array().expect("a list");
    assert_eq!(rules.len(), 3);
    assert_eq!(rules[0]["toEntities"], serde_json::json!(["host"]));
    let blocks = rules[1]["toCIDR"].as_array().expect("a list").iter();
    let blocks = blocks.map(|block| block.as_str().expect("a block").to_owned());
    assert_eq!(blocks.collect::<BTreeSet<_>>(), node_blocks());
    for rule in &rules[..2] {
        admits_ports(&rule["toPorts"][0]["ports"], &JOB_PORTS);
    }
    assert_eq!(rules[2]["toEndpoints"][0]["matchLabels"]["k8s:k8s-app"], "kube-dns");
    admits_ports(&rules[2]["toPorts"][0]["ports"], &JOB_PORTS[..2]);
}

#[test]
fn job_policies_admit_the_pods_of_nodens() {
    if !has_tools() {
        return;
    }
    let object = |kind: &str, overlay: &str, name: &str| {
        let objects = all(kind);
        let found = objects.iter().find(|(other, object)| *other == overlay && object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{overlay} lacks {kind} {name}")).1
    };
    let set = object("DaemonSet", "pod-network", "nodens");
    let egress = &JOBS["job-namespace/pod-network"][0]["spec"]["egress"][0];
    let to = &egress["to"][0];
    let namespace = &to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"];
    assert_eq!(*namespace, set["metadata"]["namespace"]);
    assert!(selects(&to["podSelector"]["matchLabels"], &set["spec"]["template"]["metadata"]["labels"]), "{to}");
    admits_ports(&egress["ports"], &JOB_PORTS);
    // The Service leads to the same ports.
    let service = object("Service", "pod-network", "nodens");
    let ports = service["spec"]["ports"].as_array().expect("a list");
    assert!(ports.iter().all(|port| port["targetPort"] == port["port"]), "{ports:?}");
    assert_eq!(protocols_and_ports(&service["spec"]["ports"]), protocols_and_ports(&egress["ports"]));

    // Cilium redirects to nodens or, on a node without it, leaves the query to kube-dns.
    let set = object("DaemonSet", "cilium-lrp", "nodens");
    let upstream = object("Service", "cilium-lrp", "kube-dns-upstream");
    let egress = &JOBS["job-namespace/cilium-lrp"][0]["spec"]["egress"][0];
    let to = egress["toEndpoints"].as_array().expect("a list");
    assert_eq!(to.len(), 2);
    let namespace = format!("k8s:{NAMESPACE}");
    for (to, object) in to.iter().zip([set, upstream]) {
        assert_eq!(to["matchLabels"][&namespace], object["metadata"]["namespace"], "{to}");
    }
    assert!(selects(&to[0]["matchLabels"], &set["spec"]["template"]["metadata"]["labels"]), "{to:?}");
    assert!(selects(&to[1]["matchLabels"], &upstream["spec"]["selector"]), "{to:?}");
    admits_ports(&egress["toPorts"][0]["ports"], &JOB_PORTS[..2]);
}

#[test]
fn the_admission_policy_sets_the_nameserver_of_jobs() {
    if !has_tools() {
        return;
    }
    let admission = render(&["admission"], ADMISSION);
    let kinds: Vec<_> = admission["admission"].iter().map(|object| object["kind"].as_str().expect("text")).collect();
    assert_eq!(kinds, ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"]);
    let spec = &admission["admission"][0]["spec"];
    // All labels of an objectSelector must match.
    assert!(spec["matchConstraints"]["objectSelector"].is_null());
    let conditions = spec["matchConditions"].as_array().expect("a list");
    let condition = |name: &str| {
        let found = conditions.iter().find(|condition| condition["name"] == name).expect("a condition");
        found["expression"].as_str().expect("text")
    };
    // The labels by which nodens recognizes jobs, and those of two more runners.
    let is_job = condition("is-a-job");
    let runners = read("src/clients/runner.rs");
    for label in [
        "project.runner.gitlab.com/id",
        "job.runner.gitlab.com/pod",
        "actions.github.com/scale-set-name",
        "runner-pod",
        "tekton.dev/taskRun",
    ] {
        let label = format!("\"{label}\"");
        assert!(is_job.contains(&label) && runners.contains(&label), "{label}: {is_job}");
    }
    for label in [
        "\"runner-deployment-name\"",
        "\"runnerset-name\"",
        "\"kubernetes.jenkins.io/controller\"",
        "key.startsWith(\"jenkins/\")",
        "key == \"jenkins\"",
    ] {
        assert!(is_job.contains(label), "{label}: {is_job}");
    }
    assert!(condition("is-no-pause-pod-and-no-listener").contains("\"runner.gitlab.com/pause-pod\""));
    // `Default` and `None` stay.
    let policies = condition("has-the-dns-of-the-cluster");
    assert!(policies.ends_with(r#"in ["ClusterFirst", "ClusterFirstWithHostNet"]"#), "{policies}");

    let expression = spec["mutations"][0]["jsonPatch"]["expression"].as_str().expect("text");
    assert!(expression.contains(r#"path: "/spec/dnsConfig/nameservers", value: ["169.254.20.10"]"#), "{expression}");
    // What the pod has stays: whole fields are added only where they are missing, else items are inserted.
    for (path, missing) in [
        ("/spec/dnsConfig", "has(object.spec.dnsConfig)"),
        ("/spec/dnsConfig/searches", "size(variables.searches) > 0"),
        ("/spec/dnsConfig/options", "size(variables.options) > 0"),
    ] {
        let added = format!("({missing} ? [] : [JSONPatch{{op: \"add\", path: \"{path}\", ");
        assert!(expression.contains(&added), "{added}: {expression}");
        assert_eq!(expression.matches(&format!("path: \"{path}\"")).count(), 1, "{path}: {expression}");
    }
    assert!(!expression.contains("replace") && !expression.contains("remove"), "{expression}");
}

#[test]
fn every_configuration_is_good_and_fits_its_pod() {
    if !has_tools() {
        return;
    }
    let all = configs();
    assert_eq!(all.len(), OVERLAYS.len() + 1, "the canary has two");
    for (overlay, set, text) in all {
        let dir = Dir::new();
        let file = dir.write("nodens.toml", text);
        run(Command::new(env!("CARGO_BIN_EXE_nodens")).arg("check").arg(file));
        let (config, pod) = (table(text), &set["spec"]["template"]["spec"]);
        let container = &pod["containers"][0];
        let memory = config["cache"]["memory"].as_str().and_then(|text| text.strip_suffix("MiB")).expect("in MiB");
        let memory = memory.parse::<u64>().expect("a number") << 20;
        let limit = mebibytes(&container["resources"]["limits"]["memory"]);
        let workers = config["server"]["workers"].as_integer().expect("a number").unsigned_abs();
        // An eighth of the limit is for data that waits in sockets.
        assert!(limit >= (memory + BESIDES + WORKER * workers) * 8 / 7, "{overlay}: {limit}");
        // The probes point to the admin pages.
        let admin = config["admin"]["listen"].as_str().expect("text");
        let on_host = pod["hostNetwork"] == true;
        // In the node's network only an own process of the container is surely the new one.
        assert_eq!(container["startupProbe"]["exec"]["command"], serde_json::json!(["/nodens", "ready"]), "{overlay}");
        for probe in ["readinessProbe", "livenessProbe"] {
            let get = &container[probe]["httpGet"];
            assert_eq!((&get["path"], &get["port"]), (&Value::from("/healthz"), &Value::from(9053)), "{overlay}");
            assert_eq!(get["host"] == "127.0.0.1", on_host, "{overlay}");
        }
        assert!(admin == "0.0.0.0:9053" || (on_host && admin == "127.0.0.1:9053"), "{overlay}: {admin}");
        // `[node]` and `[handover]` are for pods on the host network; there the next pod must find this one.
        assert_eq!((config.contains_key("node"), config.contains_key("handover")), (on_host, on_host), "{overlay}");
        let mounts = container["volumeMounts"].as_array().expect("a list");
        let mounted =
            |path: &str| mounts.iter().any(|mount| path.starts_with(mount["mountPath"].as_str().expect("text")));
        assert!(mounted(config["warm_up"]["file"].as_str().expect("text")), "{overlay}");
        if on_host {
            assert!(mounted(config["handover"]["socket"].as_str().expect("text")), "{overlay}");
        }
    }
}

#[test]
fn every_pod_may_do_what_it_must_and_no_more() {
    if !has_tools() {
        return;
    }
    for (overlay, set) in all("DaemonSet") {
        let (spec, pod) = (&set["spec"], &set["spec"]["template"]["spec"]);
        let container = &pod["containers"][0];
        // Cilium redirects only to declared ports: see cilium_redirects_to_ports_that_the_pod_declares.
        if overlay == "cilium-lrp" {
            assert_ne!(pod["hostNetwork"], true, "{overlay}: ports of the host keep the next pod away");
        } else {
            assert!(container["ports"].is_null(), "{overlay}: ports of the host keep the next pod away");
        }
        let update = &spec["updateStrategy"]["rollingUpdate"];
        let expected = serde_json::json!({ "maxSurge": "10%", "maxUnavailable": 0 });
        assert_eq!(*update, expected, "{overlay}");
        assert!(spec["minReadySeconds"].as_u64().is_some_and(|seconds| seconds >= 10), "{overlay}");
        assert_eq!(pod["dnsPolicy"], "Default", "{overlay}");
        let labels = &spec["template"]["metadata"]["labels"];
        let selector = spec["selector"]["matchLabels"].as_object().expect("labels");
        assert!(selector.iter().all(|(key, value)| labels[key] == *value), "{overlay}: {selector:?} {labels}");
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{overlay}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{overlay}");
        assert_eq!(context["capabilities"]["drop"][0], "ALL", "{overlay}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{overlay}");
        let added: Vec<_> = context["capabilities"]["add"].as_array().into_iter().flatten().collect();
        let root = pod["securityContext"]["runAsUser"] == 0;
        match pod["hostNetwork"] == true {
            true => assert!(root && added == ["NET_BIND_SERVICE", "NET_ADMIN"], "{overlay}: {added:?}"),
            false => assert!(!root && added.is_empty(), "{overlay}: {added:?}"),
        }
        let critical = pod["priorityClassName"] == "system-node-critical";
        assert_eq!(critical, overlay != "pod-network", "{overlay}");
        let image = container["image"].as_str().expect("text");
        assert!(image.contains(':') && !image.ends_with(":latest"), "{overlay}: {image}");
        let account = (pod["serviceAccountName"].as_str().expect("text"), &set["metadata"]["namespace"]);
        let bound = all("ClusterRoleBinding").into_iter().filter(|(other, _)| *other == overlay).any(|(_, binding)| {
            let subject = &binding["subjects"][0];
            (subject["name"].as_str().expect("text"), &subject["namespace"]) == account
        });
        assert!(bound, "{overlay}: nobody lets {account:?} see pods");
    }
    for (overlay, role) in all("ClusterRole") {
        let rules = serde_json::json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"] }]);
        assert_eq!(role["rules"], rules, "{overlay}");
    }
    for (overlay, service) in all("Service") {
        if service["metadata"]["name"] == "nodens" {
            assert_eq!(service["spec"]["internalTrafficPolicy"], "Local", "{overlay}");
        }
    }
}

/// Returns the terms by which the affinity of a DaemonSet selects nodes.
fn node_terms(set: &Value) -> &Value {
    let affinity = &set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
    &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
}

#[test]
fn the_canary_has_its_own_nodes_and_configuration() {
    if !has_tools() {
        return;
    }
    let configs = configs();
    let find = |name: &str| {
        let found = configs.iter().find(|(overlay, set, _)| *overlay == "canary" && set["metadata"]["name"] == name);
        *found.unwrap_or_else(|| panic!("no {name}"))
    };
    let (_, stable, stable_config) = find("nodens");
    let (_, canary, canary_config) = find("nodens-canary");
    assert_eq!(canary_config, read("deploy/kustomize/overlays/canary/set/nodens.toml"));
    assert_eq!(stable_config, read("deploy/kustomize/overlays/link-local/nodens.toml"));

    // No node matches both, and each node matches one of them.
    let terms = |operator: &str| serde_json::json!([{ "matchExpressions": [{ "key": "nodens.io/canary", "operator": operator }] }]);
    assert_eq!(*node_terms(canary), terms("Exists"));
    assert_eq!(*node_terms(stable), terms("DoesNotExist"));
    for (set, other) in [(canary, stable), (stable, canary)] {
        let selector = &set["spec"]["selector"]["matchLabels"];
        assert!(selects(selector, &set["spec"]["template"]["metadata"]["labels"]), "{selector}");
        assert!(!selects(selector, &other["spec"]["template"]["metadata"]["labels"]), "{selector}");
    }
}

#[test]
fn a_changed_configuration_is_a_rollout() {
    if !has_tools() {
        return;
    }
    // The name depends on the content, which nothing changes in place.
    let mut contents = BTreeMap::new();
    for (overlay, map) in all("ConfigMap") {
        let name = map["metadata"]["name"].as_str().expect("a name");
        let hash = name.strip_prefix("nodens-canary-").or_else(|| name.strip_prefix("nodens-"));
        assert!(hash.is_some_and(|hash| hash.len() == 10), "{overlay}: {name}");
        assert_eq!(map["immutable"], true, "{overlay}");
        let content = *contents.entry(name).or_insert(&map["data"]);
        assert_eq!(*content, map["data"], "{overlay}: {name}");
    }
    assert!(contents.len() > 1);
}

#[test]
fn the_cleanup_job_is_valid_and_may_do_its_work() {
    if !has_tools() {
        return;
    }
    let rendered = render(&["node-cleanup"], VERSIONS);
    let objects = &rendered["node-cleanup"];
    let object = |kind: &str| objects.iter().find(|object| object["kind"] == kind).expect("an object of this kind");
    let (namespace, job) = (object("Namespace"), object("Job"));
    assert_eq!(objects.len(), 2);
    assert_eq!(namespace["metadata"]["name"], job["metadata"]["namespace"]);
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
    let pod = &job["spec"]["template"]["spec"];
    assert!(pod["nodeName"].is_string(), "{pod}");
    let sets = all("DaemonSet");
    let (_, set) = sets.iter().find(|(overlay, _)| *overlay == "link-local").expect("a DaemonSet");
    let of_set = &set["spec"]["template"]["spec"];
    for key in ["hostNetwork", "tolerations"] {
        assert_eq!(pod[key], of_set[key], "{key}");
    }
    assert_eq!(pod["securityContext"]["runAsUser"], of_set["securityContext"]["runAsUser"]);
    let (container, of_set) = (&pod["containers"][0], &of_set["containers"][0]);
    for key in ["image", "securityContext"] {
        assert_eq!(container[key], of_set[key], "{key}");
    }
    let words: Vec<_> = container["args"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(words, ["node", "cleanup"]);
    run(Command::new(env!("CARGO_BIN_EXE_nodens")).args(words).arg("--help"));
}

#[test]
fn the_runbook_runs_only_what_the_image_has() {
    let image = read("Dockerfile");
    assert!(image.contains("\nFROM scratch\n") && image.contains(" /nodens /nodens\n"), "{image}");
    let mut count = 0;
    for page in ["docs/guides/deploy.md", "docs/concepts/node.md", "docs/guides/upgrades.md"] {
        let text = read(page);
        for rest in text.split("kubectl -n nodens exec ").skip(1) {
            let line = rest.split(['`', '\n']).next().unwrap_or_default();
            let command = line.strip_prefix("POD -- /nodens ").unwrap_or_else(|| panic!("{page}: {line}"));
            run(Command::new(env!("CARGO_BIN_EXE_nodens")).args(command.split(' ')).arg("--help"));
            count += 1;
        }
    }
    assert!(count > 3, "{count}");
}

#[test]
fn cilium_redirects_to_ports_that_the_pod_declares() {
    if !has_tools() {
        return;
    }
    let policies = all("CiliumLocalRedirectPolicy");
    assert_eq!(policies.len(), 1);
    let (overlay, policy) = policies[0];
    let configs = configs();
    let (_, set, config) = configs.iter().find(|(other, ..)| *other == overlay).expect("a DaemonSet");
    let (backend, template) = (&policy["spec"]["redirectBackend"], &set["spec"]["template"]);
    assert_eq!(policy["metadata"]["namespace"], set["metadata"]["namespace"]);
    let selector = backend["localEndpointSelector"]["matchLabels"].as_object().expect("labels");
    assert!(selector.iter().all(|(key, value)| template["metadata"]["labels"][key] == *value), "{selector:?}");
    // The policy has the number of a port as text.
    let ports = |list: &Value, number: &str| -> BTreeSet<(String, String, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let port = |port: &Value| (text(&port["name"]), text(&port["protocol"]), text(&port[number]));
        list.as_array().expect("a list").iter().map(port).collect()
    };
    let declared = ports(&template["spec"]["containers"][0]["ports"], "containerPort");
    assert_eq!(declared, ports(&backend["toPorts"], "port"));
    // kube-dns has ports of these names.
    let expected = [("dns", "UDP", "53"), ("dns-tcp", "TCP", "53")];
    let expected = expected.map(|(name, protocol, port)| (name.to_owned(), protocol.to_owned(), port.to_owned()));
    assert_eq!(declared, BTreeSet::from(expected));
    // nodens listens on port 53: no address names another one.
    let config = table(config);
    let listen = config["server"]["listen"].as_array().expect("a list");
    assert_eq!(listen.iter().map(|ip| ip.as_str().expect("text")).collect::<Vec<_>>(), ["0.0.0.0", "[::]"]);
}

/// The file of the warm-up stays on the node where the pod has access to the node's files.
#[test]
fn the_state_outlives_the_pod_on_the_host_network() {
    if !has_tools() {
        return;
    }
    for (overlay, set) in all("DaemonSet") {
        let pod = &set["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("a list");
        for volume in volumes {
            let keys: Vec<_> = volume.as_object().expect("a volume").keys().collect();
            assert_eq!(keys.len(), 2, "{overlay}: a name and one source: {keys:?}");
        }
        let state = volumes.iter().find(|volume| volume["name"] == "state").expect("a volume for the state");
        if pod["hostNetwork"] == true {
            let path = serde_json::json!({ "path": "/var/lib/nodens", "type": "DirectoryOrCreate" });
            assert_eq!(state["hostPath"], path, "{overlay}: {state}");
        } else {
            assert!(state["emptyDir"].is_object(), "{overlay}: {state}");
        }
    }
}

#[test]
fn runners_name_the_address_and_nothing_else() {
    let config = table(&read("deploy/kustomize/overlays/link-local/nodens.toml"));
    let address = config["node"]["addresses"][0].as_str().expect("text").to_owned();
    for file in ["deploy/gitlab-runner/values.yaml", "deploy/gitlab-runner/operator.yaml"] {
        let text = read(file);
        let block = text.split("    [[runners]]\n").nth(1).expect("a template of TOML");
        let own: String =
            block.lines().take_while(|line| line.starts_with("    ")).map(|line| format!("{line}\n")).collect();
        let parsed = table(&format!("[[runners]]\n{own}"));
        let kubernetes = &parsed["runners"][0]["kubernetes"];
        assert_eq!(kubernetes["dns_policy"].as_str(), Some("none"), "{file}");
        let servers = kubernetes["dns_config"]["nameservers"].as_array().expect("a list");
        assert_eq!(
            servers.iter().map(|server| server.as_str().expect("text")).collect::<Vec<_>>(),
            [&address],
            "{file}"
        );
    }
    let patch = table(&read("deploy/gitlab-runner/pod-spec-patch.toml"));
    let text = patch["runners"][0]["kubernetes"]["pod_spec"][0]["patch"].as_str().expect("text");
    assert!(text.contains(&format!("nameservers: [\"{address}\"]")) && text.contains("dnsPolicy: None"), "{text}");
}

#[test]
fn the_rules_fire_for_what_they_are_for() {
    if !can_run(false, &["promtool"]) {
        return;
    }
    let dir = root().join("deploy/prometheus");
    run(Command::new("promtool").args(["check", "rules", "rules.yaml"]).current_dir(&dir));
    run(Command::new("promtool").args(["test", "rules", "rules-test.yaml"]).current_dir(&dir));
    let (rules, tests, book) = (
        read("deploy/prometheus/rules.yaml"),
        read("deploy/prometheus/rules-test.yaml"),
        read("docs/guides/deploy.md"),
    );
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 7);
    for alert in alerts {
        let fires = format!("'ALERTS{{alertname=\"{alert}\", alertstate=\"firing\",");
        assert!(tests.contains(&fires), "no test shows that {alert} fires");
        assert!(
            book.contains(&format!("### {alert}\n")),
            "docs/guides/deploy.md does not say what to do about {alert}"
        );
    }
    // The copy for the Prometheus operator.
    let body = &rules[rules.find("groups:").expect("groups")..];
    let copy = read("deploy/kustomize/overlays/prometheus-operator/rules.yaml");
    let copy = &copy[copy.find("  groups:").expect("groups")..];
    let indented: String = body.lines().map(|line| format!("  {line}\n")).collect();
    assert_eq!(copy, indented);
}

/// Returns the metrics of an expression, each with the labels that it selects.
fn used(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(is_word) {
        let word: String = rest[at..].chars().take_while(|c| is_word(*c)).collect();
        rest = &rest[at + word.len()..];
        if word.starts_with("nodens_") || word.starts_with("process_") {
            let labels = rest.strip_prefix('{').and_then(|inner| inner.split('}').next()).unwrap_or_default();
            let labels =
                labels.split(',').filter_map(|label| label.split(['=', '!']).next()).filter(|label| !label.is_empty());
            found.push((word, labels.map(str::to_owned).collect()));
        }
    }
    found
}

#[test]
fn rules_and_dashboard_ask_for_what_there_is() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    lookup(nodens.address(), "a.lab.example");
    lookup(nodens.address(), "nothing.example");
    nodens.metric_becomes("nodens_queries_total", &[], |count| count >= 2.0);
    let metrics = nodens.metrics();
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for sample in &metrics.samples {
        labels.entry(&sample.name).or_default().extend(sample.labels.keys().map(String::as_str));
    }
    let rules = read("deploy/prometheus/rules.yaml");
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/nodens.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("a list");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("a list"));
    let expressions: Vec<_> =
        targets.map(|target| target["expr"].as_str().expect("text").to_owned()).chain([rules]).collect();
    let mut count = 0;
    for (name, asked) in expressions.iter().flat_map(|expression| used(expression)) {
        // A family appears with its first series. Those of clients, views, shed and search need more than this setup.
        let listed = read("docs/reference/metrics.md").contains(&format!("`{}`", name.trim_end_matches("_bucket")));
        assert!(labels.contains_key(name.as_str()) || listed, "{name} is not exported");
        if let Some(own) = labels.get(name.as_str()) {
            // Prometheus adds `instance`.
            let strange: Vec<_> =
                asked.iter().filter(|label| *label != "instance" && !own.contains(label.as_str())).collect();
            assert!(strange.is_empty(), "{name} has no {strange:?}, but {own:?}");
        }
        count += 1;
    }
    assert!(count > 30, "{count}");
}

#[test]
fn the_dockerfile_is_clean() {
    let hadolint = tools().join("python/bin/hadolint");
    if !hadolint.exists() {
        can_run(false, &["tests/deploy/install to have been run"]);
        return;
    }
    run(Command::new(hadolint).arg("Dockerfile").current_dir(root()));
    run(Command::new("sh").args(["-n", "deploy/image/target.sh"]).current_dir(root()));
}

/// Only the component for the startup taint lets nodens change nodes.
#[test]
fn nodes_are_changed_with_the_component_alone() {
    if !has_tools() {
        return;
    }
    // kustomize takes relative paths only.
    let dir = root().join(format!("target/startup-taint-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    let text = "resources: [../../deploy/kustomize/overlays/link-local]\n\
                components: [../../deploy/kustomize/components/startup-taint]\n";
    fs::write(dir.join("kustomization.yaml"), text).expect("writes");
    let folder = dir.to_str().expect("UTF-8");
    let objects = render(&[folder], VERSIONS).remove(folder).expect("objects");
    fs::remove_dir_all(&dir).expect("removes");
    let of_nodes = |objects: &[Value]| {
        let rules = objects.iter().filter(|object| object["kind"] == "ClusterRole").flat_map(|role| {
            role["rules"].as_array().expect("rules").iter().filter(|rule| rule["resources"][0] == "nodes").cloned()
        });
        rules.map(|rule| rule["verbs"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of_nodes(&objects), [serde_json::json!(["get", "patch"])]);
    let bound = |object: &&Value| {
        let subject = &object["subjects"][0];
        object["roleRef"]["name"] == "nodens-startup-taint"
            && subject["name"] == "nodens"
            && subject["namespace"] == "nodens"
    };
    assert_eq!(objects.iter().filter(bound).count(), 1);
    assert_eq!(of_nodes(&RENDERED["overlays/link-local"]), [Value::Null; 0]);
}

#[test]
fn systemd_takes_the_unit() {
    if !can_run(false, &["systemd-analyze"]) {
        return;
    }
    let dir = Dir::new();
    for name in ["nodens.service", "nodens-prepare.service"] {
        let unit = read(&format!("deploy/systemd/{name}"));
        let unit = unit.replace("/usr/local/bin/nodens", env!("CARGO_BIN_EXE_nodens"));
        let file = dir.write(name, &unit);
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(file).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains(name), "{text}");
        // `ExecStart` is a valid command line.
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
        let words = line.split(' ').skip(1).take_while(|word| *word != "--config");
        run(Command::new(env!("CARGO_BIN_EXE_nodens")).args(words).arg("--help"));
    }
}

#[test]
fn systemd_never_gives_up() {
    let unit = read("deploy/systemd/nodens.service");
    let (general, service) = unit.split_once("\n[Service]\n").expect("two sections");
    let general = general.split_once("[Unit]\n").expect("a section").1;
    // In [Service] systemd ignores it.
    assert!(general.lines().any(|line| line == "StartLimitIntervalSec=0"), "{general}");
    for line in ["Restart=always", "Type=notify", "NotifyAccess=all"] {
        assert!(service.lines().any(|other| other == line), "{line}: {service}");
    }
}

#[test]
fn a_pod_that_may_nothing_serves_on_its_own_network() {
    // As the overlay pod-network runs it: uid 65532, without capabilities, on a port that needs none.
    if !can_run(true, &["setpriv"]) {
        return;
    }
    let upstream = upstream(zone());
    let dir = Dir::new();
    let file = dir.write("nodens.toml", &config(&[&upstream], "", ""));
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
    let words: Vec<_> = serve().get_args().map(ToOwned::to_owned).collect();
    command.arg(env!("CARGO_BIN_EXE_nodens")).args(words).arg("--config").arg(file);
    let nodens = Nodens::spawn(&mut command, dir);
    lookup(nodens.address(), "a.lab.example");
}
