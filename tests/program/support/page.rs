//! Requests to the admin pages, and a strict parser of the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use super::{DEADLINE, Nodens, eventually};

/// A response of the admin pages.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Nodens {
    /// Requests a page with GET.
    pub(crate) fn get(&self, path: &str) -> Page {
        self.request("GET", path)
    }

    /// Sends a request without a body.
    pub(crate) fn request(&self, method: &str, path: &str) -> Page {
        page(TcpStream::connect(self.admin.expect("admin pages")).expect("a connection"), method, path)
    }

    /// Returns the current metrics.
    pub(crate) fn metrics(&self) -> Metrics {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200);
        Metrics::parse(&page.body)
    }

    /// Returns the current sum of the samples of a metric that have all of these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// Waits until `good` accepts the sum of `Self::metric`; nodens updates its counters after it responds.
    pub(crate) fn metric_becomes(&self, name: &str, labels: &[(&str, &str)], good: impl Fn(f64) -> bool) -> f64 {
        eventually(&format!("{name} {labels:?}"), || Some(self.metric(name, labels)).filter(|value| good(*value)))
    }
}

/// Sends a request over this connection and reads the response.
pub(crate) fn page(mut stream: TcpStream, method: &str, path: &str) -> Page {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: nodens\r\nConnection: close\r\n\r\n").expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response in UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Page { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// The metrics of one page.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Type and help text of each family.
    pub(crate) families: BTreeMap<String, (String, String)>,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Metrics {
    /// Parses a page; panics unless each family has help, then type, then samples, and all samples are different.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line is whole");
        let mut metrics = Self { families: BTreeMap::new(), samples: Vec::new() };
        let mut help: Option<(String, String)> = None;
        let mut family = String::new();
        let mut series = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(help.is_none(), "{line}");
                let (name, words) = rest.split_once(' ').expect(line);
                help = Some((name.to_owned(), words.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                let (helped, words) = help.take().expect("help before type");
                assert_eq!(helped, name);
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                family = name.to_owned();
                assert!(metrics.families.insert(family.clone(), (kind.to_owned(), words)).is_none(), "{line} twice");
            } else {
                let sample = Sample::parse(line);
                let histogram = metrics.families.get(&family).is_some_and(|(kind, _)| kind == "histogram");
                let suffix = sample.name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
                let right = if histogram { ["_bucket", "_sum", "_count"].contains(&suffix) } else { suffix.is_empty() };
                assert!(right, "{line} is not of {family}");
                assert!(series.insert((sample.name.clone(), sample.labels.clone())), "{line} twice");
                metrics.samples.push(sample);
            }
        }
        assert!(help.is_none(), "help without a type");
        metrics
    }

    /// Returns the sum of the samples that have all of these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|label| label == value))
        };
        self.samples.iter().filter(has).map(|sample| sample.value).sum()
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line:?}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("no end: {line:?}"))),
            None => (series, ""),
        };
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        assert!(plain(name), "{line:?}");
        let mut read = BTreeMap::new();
        // No label value here contains a quote or a comma.
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("no label: {line:?}"));
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            assert!(plain(key), "{line:?}");
            let value = value.unwrap_or_else(|| panic!("no quotes: {line:?}"));
            assert!(read.insert(key.to_owned(), value.to_owned()).is_none(), "{line:?}");
        }
        Self { name: name.to_owned(), labels: read, value }
    }
}
