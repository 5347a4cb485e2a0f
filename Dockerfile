# Built from a pinned toolchain, shipped without one.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# Dependencies first: they change less often than the program.
RUN mkdir -p src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && sed '/^\[\[bench\]\]/,/^$/d; /^\[\[test\]\]/,/^$/d' Cargo.toml > Cargo.deps.toml && cp Cargo.deps.toml Cargo.toml \
    && cargo build --release --bin onemind && rm -rf src
COPY . .
RUN touch src/main.rs src/lib.rs && cargo build --locked --release --bin onemind && strip target/release/onemind

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home onemind
COPY --from=build /src/target/release/onemind /usr/local/bin/onemind
COPY conf /etc/onemind
USER onemind
EXPOSE 8080 8443
# The admin listener is on loopback, inside the container as well.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
  CMD ["onemind", "ready"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["onemind"]
CMD ["run", "-c", "/etc/onemind/gateway.yaml"]
