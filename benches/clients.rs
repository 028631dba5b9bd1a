//! Cost of finding the client of an address, on a node with 250 pods: one look-up.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use divan::{AllocProfiler, Bencher, black_box};
use mimalloc::MiMalloc;
use nodens::clients::client::{Client, ClientKind};
use nodens::clients::pods::{Pod, PodEvent, Pods};
use nodens::clients::{Clients, StaticClients};
use nodens::config;

#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

/// Number of pods, more than a node runs by default.
const PODS: u8 = 250;

fn main() {
    divan::main();
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, 3, number).into()
}

/// Returns the tables of all pods of the node, and of a configured network.
fn clients() -> (Clients, StaticClients) {
    let mut pods = Pods::new(1, false);
    for number in 0..PODS {
        let client = Client {
            kind: ClientKind::Pod,
            name: format!("pod-{number}").into(),
            namespace: Some("ci".into()),
            uid: Some(number.to_string().into()),
            labels: Box::default(),
            more_labels: false,
            job: None,
            memo: Default::default(),
            search: None,
        };
        let pod = Pod {
            uid: number.to_string().into(),
            version: u64::from(number) + 1,
            addresses: vec![address(number)],
            host_network: false,
            ended: false,
            deleting: false,
            client: Arc::new(client),
        };
        pods.apply(0, PodEvent::Seen(pod), 1_000);
    }
    let network = config::ClientConfig {
        source: "10.0.8.0/24".parse().expect("a network"),
        name: "machines".to_owned(),
        namespace: None,
        project: None,
        job: None,
        runner: None,
    };
    let clients = Clients::default();
    clients.put_pods(pods.table());
    (clients, StaticClients::new(&[network]))
}

/// Looks up the address of a pod, a configured address, and an unknown address.
#[divan::bench(args = ["10.244.3.7", "10.0.8.7", "192.0.2.7"], sample_size = 1_000)]
fn identify(bencher: Bencher<'_, '_>, address: &str) {
    let ((clients, fixed), address) = (clients(), address.parse::<IpAddr>().expect("an address"));
    let tables = clients.tables(&fixed);
    bencher.bench_local(|| {
        let _ = black_box(tables.identify(black_box(address), black_box(2_000)));
    });
}

/// Loads the tables, as happens once for each batch.
#[divan::bench(sample_size = 1_000)]
fn tables(bencher: Bencher<'_, '_>) {
    let (clients, fixed) = clients();
    bencher.bench_local(|| {
        let _ = black_box(clients.tables(&fixed));
    });
}
