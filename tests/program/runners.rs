//! The files in `deploy` that make nodens the nameserver of jobs of runners other than GitLab Runner.

use std::fs;
use std::path::Path;

/// Each file names the address of nodens in the overlay `link-local`, no second nameserver, and the search list of the cluster.
#[test]
fn other_runners_name_the_address_and_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let overlay = fs::read_to_string(root.join("deploy/kustomize/overlays/link-local/nodens.toml")).expect("a file");
    let address = overlay.split("addresses = [\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an address");
    let mut count = 0;
    for folder in ["arc", "tekton", "jenkins"] {
        for entry in fs::read_dir(root.join("deploy").join(folder)).expect("a folder") {
            let path = entry.expect("a file").path();
            let text = fs::read_to_string(&path).expect("text");
            let lines_of =
                |key: &str| text.lines().filter_map(|line| line.trim().strip_prefix(key)).collect::<Vec<_>>();
            assert_eq!(lines_of("dnsPolicy: "), ["None"], "{}", path.display());
            assert_eq!(lines_of("nameservers: "), [format!("[\"{address}\"]")], "{}", path.display());
            assert_eq!(lines_of("options: "), ["[{name: ndots, value: \"2\"}]"], "{}", path.display());
            let searches = lines_of("searches: ");
            let is_of_the_cluster = |list: &&str| list.ends_with("\"svc.cluster.local\", \"cluster.local\"]");
            assert!(searches.len() == 1 && searches.iter().all(is_of_the_cluster), "{}: {searches:?}", path.display());
            count += 1;
        }
    }
    assert_eq!(count, 7);
}
