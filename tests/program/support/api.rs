//! A scripted Kubernetes API server: pods, listed and watched over HTTP as JSON, and the taints of one node.
//!
//! The server keeps the whole history: a watch can resume at any version that has not been compacted away.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};

use super::{DEADLINE, Dir, Nodens};

/// A server that runs until the test process ends.
pub(crate) struct Api {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    version: u64,
    /// Latest compacted version; a watch from an earlier version gets 410.
    compacted: u64,
    pods: BTreeMap<String, Value>,
    node: Node,
    /// All changes: version, event type, object.
    history: Vec<(u64, &'static str, Value)>,
    /// Number of times that all watches were ended.
    cut: u64,
    /// Status of every response; `None`: the regular one.
    refuses: Option<u16>,
    /// All requests, as "list PATH?QUERY" or "watch PATH?QUERY".
    requests: Vec<String>,
}

/// The taints of the node, and the requests for it.
#[derive(Default)]
struct Node {
    /// Keys of its taints; `None`: requests of the node are forbidden.
    taints: Option<Vec<&'static str>>,
    /// Number of requests for the node so far.
    requests: usize,
    /// Number of next patches before which another client moves the taints.
    moves: usize,
}

impl Node {
    /// Applies a patch of a test and a removal of one taint; returns the status of the response.
    fn patch(&mut self, patch: &Value) -> u16 {
        let Some(taints) = &mut self.taints else { return 403 };
        if self.moves > 0 {
            self.moves -= 1;
            taints.rotate_left(1);
        }
        let of = |number: usize, key: &str| patch[number][key].as_str().unwrap_or_default();
        let place =
            of(1, "path").strip_prefix("/spec/taints/").and_then(|place| place.parse().ok()).unwrap_or(usize::MAX);
        let is_tested = of(0, "op") == "test" && of(0, "path") == format!("/spec/taints/{place}/key");
        if !is_tested || of(1, "op") != "remove" || taints.get(place) != Some(&of(0, "value")) {
            return 422;
        }
        taints.remove(place);
        200
    }
}

impl Api {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let state = State {
            version: 1_000,
            compacted: 0,
            pods: BTreeMap::new(),
            node: Node::default(),
            history: Vec::new(),
            cut: 0,
            refuses: None,
            requests: Vec::new(),
        };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                // `serve` returns an error when the client disconnects.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Self { address, state }
    }

    /// Serves the same API over TLS; returns the address and the certificate to trust, in PEM.
    pub(crate) fn over_tls(&self) -> (SocketAddr, String) {
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .expect("a configuration");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = super::RUNTIME.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a listener");
        let (address, behind) = (listener.local_addr().expect("an address"), self.address);
        super::RUNTIME.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut front = acceptor.accept(stream).await?;
                    let mut back = tokio::net::TcpStream::connect(behind).await?;
                    tokio::io::copy_bidirectional(&mut front, &mut back).await
                });
            }
        });
        (address, signed.cert.pem())
    }

    /// Starts nodens on node-1 with this configuration, its `[kubernetes]` pointing to this server.
    pub(crate) fn nodens(&self, config: &str, dir: Dir) -> Nodens {
        let file = self.write_config(config, &dir);
        Nodens::spawn(super::serve().arg("--config").arg(file).env("NODE_NAME", "node-1"), dir)
    }

    /// Writes this configuration with a `[kubernetes]` that points to this server.
    pub(crate) fn write_config(&self, config: &str, dir: &Dir) -> PathBuf {
        let token = dir.write("token", "secret\n");
        let here = format!("[kubernetes]\napi_server = \"http://{}\"\ntoken_file = {token:?}\n", self.address);
        dir.write("nodens.toml", &config.replacen("[kubernetes]\n", &here, 1))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.0.lock().expect("a lock"));
        self.state.1.notify_all();
        changed
    }

    /// Adds or changes a pod; its UID is `uid-` and `name`.
    pub(crate) fn put(&self, namespace: &str, name: &str, addresses: &[&str], edit: impl FnOnce(&mut Value)) {
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": namespace, "uid": format!("uid-{name}"),
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {}, "annotations": {},
                "managedFields": [{ "manager": "kubelet", "operation": "Update", "fieldsV1": { "f:status": {} } }],
            },
            "spec": { "nodeName": "node-1", "containers": [{ "name": "build", "image": "alpine:3" }] },
            "status": { "phase": "Running", "podIP": addresses.first(), "podIPs": ips },
        });
        edit(&mut pod);
        self.change(|state| {
            let kind = if state.pods.contains_key(name) { "MODIFIED" } else { "ADDED" };
            state.happens(kind, name, pod);
        });
    }

    /// Deletes a pod.
    pub(crate) fn delete(&self, name: &str) {
        self.change(|state| {
            let pod = state.pods.get(name).expect("a pod").clone();
            state.happens("DELETED", name, pod);
            state.pods.remove(name);
        });
    }

    /// Sends a bookmark to every watch, at a version 10 later.
    pub(crate) fn bookmark(&self) {
        self.change(|state| {
            state.version += 10;
            let object = json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "resourceVersion": state.version.to_string() } });
            state.history.push((state.version, "BOOKMARK", object));
        });
    }

    /// Ends every watch.
    pub(crate) fn cut(&self) {
        self.change(|state| state.cut += 1);
    }

    /// Compacts the whole history: every watch must list again.
    pub(crate) fn compact(&self) {
        self.change(|state| {
            state.version += 1;
            state.compacted = state.version;
        });
    }

    /// Compacts the history up to the last bookmark.
    pub(crate) fn compact_to_bookmark(&self) {
        self.change(|state| {
            let last = state.history.iter().rev().find(|(_, kind, _)| *kind == "BOOKMARK");
            state.compacted = last.map_or(0, |(version, _, _)| *version);
        });
    }

    /// Ends every watch and sends this status to every request; `None` restores the regular responses.
    pub(crate) fn refuse(&self, status: Option<u16>) {
        self.change(|state| {
            state.refuses = status;
            state.cut += 1;
        });
    }

    /// Gives the node these taints, and nodens the permission to read and change it. Before the next `moves` patches another
    /// client moves the taints.
    pub(crate) fn taint(&self, taints: &[&'static str], moves: usize) {
        self.change(|state| {
            state.node.taints = Some(taints.to_vec());
            state.node.moves = moves;
        });
    }

    /// Returns the keys of the node's taints, and the number of requests for the node.
    pub(crate) fn taints(&self) -> (Vec<&'static str>, usize) {
        self.change(|state| (state.node.taints.clone().unwrap_or_default(), state.node.requests))
    }

    /// Returns all requests so far, as "list PATH?QUERY" or "watch PATH?QUERY".
    pub(crate) fn requests(&self) -> Vec<String> {
        self.change(|state| state.requests.clone())
    }
}

impl State {
    fn happens(&mut self, kind: &'static str, name: &str, mut pod: Value) {
        self.version += 1;
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
        pod["kind"] = "Pod".into();
        pod["apiVersion"] = "v1".into();
        self.pods.insert(name.to_owned(), pod.clone());
        self.history.push((self.version, kind, pod));
    }
}

/// Serves the requests of one connection.
fn serve(stream: TcpStream, state: &(Mutex<State>, Condvar)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                text => lines.push(text.to_owned()),
            }
        }
        let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let header =
            |name: &str| lines.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
        let mut body = vec![0; header("content-length: ").and_then(|length| length.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let watch = value("watch").is_some_and(|watch| watch == "1" || watch == "true");
        let authorized = lines.iter().any(|line| line.eq_ignore_ascii_case("authorization: bearer secret"));
        let of_node = value("fieldSelector") == Some("spec.nodeName%3Dnode-1");
        let namespace = path.strip_prefix("/api/v1/namespaces/").and_then(|rest| rest.strip_suffix("/pods"));
        let right = authorized && of_node && (namespace.is_some() || path == "/api/v1/pods");
        let mut guard = state.0.lock().expect("a lock");
        if path == "/api/v1/nodes/node-1" && authorized {
            guard.node.requests += 1;
            let is_patch = header("content-type: ").is_some_and(|kind| kind == "application/json-patch+json");
            let code = match &guard.node.taints {
                None => 403,
                Some(_) if is_patch => guard.node.patch(&serde_json::from_slice(&body).unwrap_or_default()),
                Some(_) => 200,
            };
            let taints = guard.node.taints.iter().flatten().map(|key| json!({ "key": key, "effect": "NoSchedule" }));
            let spec = json!({ "kind": "Node", "spec": { "taints": taints.collect::<Vec<_>>() } });
            drop(guard);
            whole(&stream, code, &if code == 200 { spec } else { status(code) })?;
            continue;
        }
        guard.requests.push(format!("{} {target}", if watch { "watch" } else { "list" }));
        let refuses = guard.refuses.or((!right).then_some(400));
        if let Some(code) = refuses {
            drop(guard);
            whole(&stream, code, &status(code))?;
        } else if watch {
            drop(guard);
            let from = value("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
            return tell(&stream, state, namespace, from);
        } else {
            // One pod a page, to exercise pagination.
            let mine = guard.pods.values().filter(|pod| is_in(pod, namespace));
            let at: usize = value("continue").and_then(|at| at.parse().ok()).unwrap_or(0);
            let items: Vec<&Value> = mine.clone().skip(at).take(1).collect();
            let next = if at + 1 < mine.count() { (at + 1).to_string() } else { String::new() };
            let list = json!({
                "kind": "PodList", "apiVersion": "v1", "items": items,
                "metadata": { "resourceVersion": guard.version.to_string(), "continue": next },
            });
            drop(guard);
            whole(&stream, 200, &list)?;
        }
    }
}

/// Sends all events after version `from`, until the watch is ended.
fn tell(
    mut stream: &TcpStream,
    state: &(Mutex<State>, Condvar),
    namespace: Option<&str>,
    mut from: u64,
) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let mut chunk = |event: Value| {
        let line = format!("{event}\n");
        write!(stream, "{:x}\r\n{line}\r\n", line.len())
    };
    let mut guard = state.0.lock().expect("a lock");
    let cut = guard.cut;
    loop {
        if guard.cut != cut {
            return write!(stream, "0\r\n\r\n");
        }
        if from < guard.compacted {
            chunk(json!({ "type": "ERROR", "object": status(410) }))?;
            return write!(stream, "0\r\n\r\n");
        }
        let news: Vec<_> = guard.history.iter().filter(|(version, _, _)| *version > from).cloned().collect();
        for (version, kind, object) in news {
            if kind == "BOOKMARK" || is_in(&object, namespace) {
                chunk(json!({ "type": kind, "object": object }))?;
            }
            from = version;
        }
        guard = state.1.wait_timeout(guard, DEADLINE).expect("a lock").0;
    }
}

fn is_in(pod: &Value, namespace: Option<&str>) -> bool {
    namespace.is_none_or(|namespace| pod["metadata"]["namespace"] == namespace)
}

fn status(code: u16) -> Value {
    let reason = match code {
        403 => "Forbidden",
        422 => "Invalid",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": format!("{reason} by the script"),
    })
}

fn whole(mut stream: &TcpStream, code: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes())
}
