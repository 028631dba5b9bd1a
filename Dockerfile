# A static binary in an empty image. Build: docker build -t nodens .
FROM rust:1-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
RUN cargo build --release --locked && cp target/release/nodens /nodens

FROM scratch
COPY --from=build /nodens /nodens
# Port 53 needs CAP_NET_BIND_SERVICE; any port above 1023 needs nothing.
USER 65532:65532
ENTRYPOINT ["/nodens"]
CMD ["serve", "--config", "/etc/nodens/nodens.toml"]
