# What people and .ci/run share. `just` lists the recipes; `cargo install --locked just` installs the tool.

_list:
    @just --list --unsorted

# Formatting, lints and documentation: what takes seconds
check: format clippy doc

# Formatting
format:
    cargo fmt --all -- --check

# Lints; `incompatible_msrv` checks the minimum Rust version as well
clippy:
    cargo clippy --all-targets --locked -- -D warnings

# Documentation of the library, without warnings
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked

# Licences, duplicate crates, sources
deny:
    cargo deny --locked check licenses bans sources

# Known vulnerabilities, if the database can be reached
advisories:
    #!/usr/bin/env bash
    set -euo pipefail
    if timeout 120 cargo deny --locked fetch db >/dev/null 2>&1; then
      cargo deny --locked check advisories
    else
      echo 'skipped: the advisory database cannot be reached from here'
    fi

# All tests
test:
    cargo test

# Random faults of upstreams under load, for this many seconds
soak seconds='60':
    NODENS_SOAK_SECONDS={{seconds}} cargo test --test program soak

# The side-by-side run, without peers
peers:
    timeout 300 cargo test --bench peers -- --quick --only floor,nodens --modes hits,tcp,misses

# All attacks for a second each, without peers
abuse:
    timeout 300 cargo test --bench abuse -- --quick --servers floor,nodens

# The release build
release:
    cargo build --release --locked

# Instructions of hits and misses, against their bounds (needs valgrind)
instructions:
    cargo bench --locked --bench instructions

# The guided tour of the lab
tour: release
    target/release/nodens lab --tour

# Writes the generated pages
pages:
    UPDATE_PAGES=1 cargo test --test repository pages
