//! Parts of the side-by-side run (`benches/peers/`) that need no server, and a check that the documentation shows the
//! measured results.
#![allow(clippy::unwrap_used)]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::chart::{chart, scale};
use crate::machine::{date, machine, processor, today};
use crate::markdown;
use crate::modes::Mode;
use crate::processes::{RESIDENT, Stat, cpu_time, memory, parse_kib, parse_stat};
use crate::results::{FLOOR, ModeResults, Results, Sample, Server, median, spread};
use crate::table::tables;

/// Returns results of two servers in two rounds; the second round was slow for both.
fn example() -> Results {
    let server = |name: &str| Server {
        name: name.to_owned(),
        version: "1.2".to_owned(),
        start_ms: 3.25,
        memory_mib: [4.0, 50.5],
    };
    let sample = |round, cpu_us: f64, lost| Sample {
        round,
        cpu_us,
        qps: 1e6 / cpu_us,
        busy: 0.99,
        lost,
        sent: 9,
        ..Sample::default()
    };
    let hits = vec![vec![sample(0, 3.0, 1), sample(1, 6.0, 2)], vec![sample(0, 1.0, 0), sample(1, 2.0, 0)]];
    Results {
        date: "2026-01-31".to_owned(),
        machine: "A <processor>, 2 CPUs, Linux 6.1".to_owned(),
        upstream: "nsd 4.6".to_owned(),
        rounds: 2,
        seconds: 0.5,
        rate: 5000,
        servers: vec![server("nodens"), server(FLOOR)],
        modes: vec![ModeResults { mode: Mode::Hits, samples: hits }],
    }
}

#[test]
fn a_ratio_is_taken_within_a_round() {
    let results = example();
    let rows = results.rows(Mode::Hits);
    let names: Vec<&str> = rows.iter().map(|row| row.server).collect();
    assert_eq!(names, [FLOOR, "nodens"], "the cheapest first");
    assert_eq!((rows[1].cpu_us, rows[1].ratio, rows[1].spread), (4.5, Some(3.0), 0.0), "drift hits both alike");
    assert_eq!((rows[0].cpu_us, rows[0].ratio), (1.5, Some(1.0)));
    assert!((rows[0].spread - 1.0 / 3.0).abs() < 1e-9, "the floor's own drift is told");
    assert_eq!((rows[1].lost, rows[1].failed), (3, 0));
    assert_eq!(results.rows(Mode::Tcp), []);
}

#[test]
fn a_round_without_the_floor_gives_no_ratio() {
    let mut results = example();
    results.modes[0].samples[1].remove(0);
    assert_eq!(results.rows(Mode::Hits)[1].ratio, Some(3.0), "6 to 2, not 3 to 2");
}

#[test]
fn without_a_floor_there_is_no_ratio() {
    let mut results = example();
    results.servers.pop();
    results.modes[0].samples.pop();
    let rows = results.rows(Mode::Hits);
    assert_eq!((rows.len(), rows[0].ratio), (1, None));
    assert!((rows[0].spread - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn the_median_is_in_the_middle() {
    assert_eq!(median(&[]), 0.0);
    assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[9.0, 1.0, 2.0, 3.0]), 2.5);
    assert_eq!(spread(&[2.0, 1.0, 5.0]), 1.5);
    assert_eq!(spread(&[]), 0.0);
}

#[test]
fn a_table_shows_what_was_measured() {
    let text = tables(&example());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "2026-01-31; A <processor>, 2 CPUs, Linux 6.1; upstream: nsd 4.6");
    let at = lines.iter().position(|line| *line == "hits").unwrap();
    assert!(lines[at + 2].starts_with("  floor ") && lines[at + 3].starts_with("  nodens "), "{text}");
    let words: Vec<&str> = lines[at + 3].split_whitespace().collect();
    assert_eq!(words, ["nodens", "4.50", "3.00", "0%", "250000", "99%", "3", "0"]);
    assert!(!text.contains("EDNS") && !text.contains("waited"), "{text}");
}

#[test]
fn a_server_that_waited_is_told() {
    let mut results = example();
    results.modes[0].samples[0].iter_mut().for_each(|sample| sample.busy = 0.5);
    assert!(tables(&results).contains("waited"));
}

#[test]
fn a_row_for_each_server() {
    assert_eq!(
        markdown::table(&example()),
        "| CPU for an answer, × floor | hits |\n|---|---:|\n| floor | 1.00 |\n| nodens | 3.00 |\n"
    );
}

#[test]
fn a_bar_is_as_long_as_its_ratio() {
    let svg = chart(&example());
    let width = |class: &str| -> f64 {
        let bar = svg.lines().find(|line| line.starts_with("<rect") && line.contains(class)).unwrap();
        bar.split("width=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().parse().unwrap()
    };
    assert!((width("own") - 3.0 * width("floor")).abs() < 0.3, "{svg}");
    assert!(svg.contains(">3.00×, 4.5 µs<") && svg.contains(">hits<") && !svg.contains(">misses<"));
    assert!(svg.contains("2026-01-31, A &lt;processor&gt;, 2 CPUs"));
    assert!(svg.contains("prefers-color-scheme: dark"));
}

#[test]
fn marks_are_round_and_few() {
    assert_eq!(scale(4.0), (1.0, 4.0));
    assert_eq!(scale(10.5), (2.0, 12.0));
    assert_eq!(scale(44.0), (5.0, 45.0));
    assert_eq!(scale(99.0), (10.0, 100.0));
}

#[test]
fn the_page_and_the_chart_show_what_was_measured() {
    let results: Results = serde_json::from_str(include_str!("../../benches/peers/results.json")).unwrap();
    let page = include_str!("../../docs/reference/measurements.md");
    assert!(page.contains(&markdown::table(&results)), "the table should be\n{}", markdown::table(&results));
    assert!(page.contains(&results.date), "{}", results.date);
    assert!(include_str!("../../benches/peers/results.svg") == chart(&results), "the chart is of another run");
}

#[test]
fn a_stat_line_is_read_whatever_the_name() {
    let line = "77 (a) b (c)) S 1 42 77 0 -1 4194560 100 0 0 0 11 22 300 4000 20 0 1 0 5 6 7\n";
    assert_eq!(parse_stat(line), Some(Stat { group: 42, children: 4300 }));
    assert_eq!(parse_stat("77 (a) S 1 42 77 0 -1 4194560 100 0 0 0 11 22 300"), None);
    assert_eq!(parse_stat(""), None);
}

#[test]
fn resident_memory_is_read() {
    let status = "Name:\tx\nVmHWM:\t   99 kB\nVmRSS:\t    1234 kB\n";
    assert_eq!((parse_kib(status, RESIDENT), parse_kib(status, "VmHWM:")), (Some(1234), Some(99)));
    assert_eq!(parse_kib("Name:\tx\nState:\tZ (zombie)\n", RESIDENT), None);
}

#[test]
fn a_busy_process_is_found_in_its_group() {
    assert_eq!((memory(u32::MAX, RESIDENT), cpu_time(u32::MAX)), (0, Duration::ZERO));
    // A group of its own: processes that end take their time out of the sum.
    let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).process_group(0).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(120);
    while cpu_time(busy.id()) < Duration::from_millis(10) && Instant::now() < until {
        std::thread::yield_now();
    }
    let (time, resident) = (cpu_time(busy.id()), memory(busy.id(), RESIDENT));
    busy.kill().unwrap();
    busy.wait().unwrap();
    assert!(time >= Duration::from_millis(10) && resident > 0, "{time:?}, {resident}");
}

#[test]
fn days_are_of_the_calendar() {
    for (day, name) in [
        (0, "1970-01-01"),
        (364, "1970-12-31"),
        (365, "1971-01-01"),
        (789, "1972-02-29"),
        (11_016, "2000-02-29"),
        (20_513, "2026-03-01"),
        (20_818, "2026-12-31"),
    ] {
        assert_eq!(date(Duration::from_secs(day * 86_400 + 86_399)), name);
    }
    assert!(today().starts_with('2'));
}

#[test]
fn a_processor_has_a_name() {
    assert_eq!(processor("processor\t: 0\nmodel name\t: One Two 3\n"), "One Two 3");
    assert_eq!(processor("processor\t: 0\n"), std::env::consts::ARCH);
    assert!(machine().contains(" CPU"));
}
