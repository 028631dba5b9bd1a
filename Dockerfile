# nodens in an image with nothing else: no shell, no libc, no package.
#
#   docker build -t registry.example.com/platform/nodens:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 -t registry.example.com/platform/nodens:0.1.0 --push .
#
# The second one compiles both on the builder's own architecture. The list of crates is in the binary: `cargo audit bin`, `syft`
# and `trivy` read it there.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG TARGETARCH
RUN cargo install --locked cargo-auditable@0.7.0
WORKDIR /src
COPY deploy/image/target.sh ./
RUN ./target.sh install
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY config config
COPY src src
RUN ./target.sh build /nodens

FROM scratch
LABEL org.opencontainers.image.title="nodens" \
      org.opencontainers.image.description="A runner-aware DNS caching resolver for the nodes of a Kubernetes CI cluster" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version="0.1.0"
COPY --from=build /nodens /nodens
# Nobody, by default. A port above 1023 needs nothing; port 53 needs net.ipv4.ip_unprivileged_port_start=53 in the container's
# own network, or CAP_NET_BIND_SERVICE as root; [node] needs CAP_NET_ADMIN as root: see docs/guides/deploy.md.
USER 65532:65532
ENTRYPOINT ["/nodens"]
CMD ["serve", "--config", "/etc/nodens/nodens.toml"]
