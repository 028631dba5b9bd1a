#!/usr/bin/env bash
# Where a running nodens spends its time: benches/profile.sh hit|miss [BINARY]
#
# Needs nsd, dnsperf, perf, two processors, and `cargo build --profile bench --bin nodens`. nodens has processor 0 to
# itself; the upstream and the clients share processor 1.
set -euo pipefail
mode=$1 binary=${2:-target/release/nodens}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT

cat >"$work/nsd.conf" <<END
server:
  ip-address: 127.0.0.27@5428
  zonesdir: $work
  database: ""
  pidfile: $work/nsd.pid
  xfrdfile: ""
  xfrdir: $work
  zonelistfile: $work/zone.list
  logfile: $work/nsd.log
  username: ""
  server-count: 1
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: example.net
  zonefile: zone
END
cat >"$work/zone" <<END
\$ORIGIN example.net.
\$TTL 3600
@ SOA ns hostmaster 1 3600 600 86400 300
  NS ns
ns A 127.0.0.27
* A 192.0.2.1
END
cat >"$work/nodens.toml" <<END
[server]
listen = ["127.0.0.27:5427"]
workers = 1
[admin]
listen = "127.0.0.27:9427"
[upstreams.nsd]
servers = ["127.0.0.27:5428"]
[[route]]
zones = ["."]
to = "nsd"
END
# For hits a few names that come round again and again, for misses more than can be asked in the time.
case $mode in
hit) seq -f 'job-%.0f.example.net A' 2000 >"$work/names" ;;
miss) seq -f 'job-%.0f.example.net A' 2000000 >"$work/names" ;;
*) exit 64 ;;
esac

taskset -c 1 nsd -d -c "$work/nsd.conf" &
taskset -c 0 "$binary" serve --config "$work/nodens.toml" 2>"$work/nodens.log" &
nodens=$!
sleep 1
taskset -c 1 dnsperf -s 127.0.0.27 -p 5427 -d "$work/names" -l 6 -c 16 -q 256 >"$work/dnsperf" &
load=$!
sleep 2
perf record -q -F 2000 -g -o "$work/perf.data" -p "$nodens" -- sleep 3
wait "$load"

report() { perf report -q -i "$work/perf.data" --no-children -g none "$@" 2>/dev/null | grep -v '^$'; }
report --sort dso
echo
report --sort symbol --dsos "$(basename "$binary")" | sed -n 1,12p
grep -E 'Queries (completed|lost)|per second' "$work/dnsperf"
