# syntax=docker/dockerfile:1
# Built with the toolchain, shipped without it.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches keep the dependencies from one build to the next, whatever has changed.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin onemind \
    && strip -o /onemind target/release/onemind

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home onemind
COPY --from=build /onemind /usr/local/bin/onemind
COPY conf /etc/onemind
USER onemind
# For `run` and for `ready` alike; mount your own over it, or name another.
ENV ONEMIND_CONFIG=/etc/onemind/gateway.yaml
EXPOSE 8080 8443
# Asks the admin listener, which is on loopback inside the container as well.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["onemind", "ready"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["onemind"]
CMD ["run"]
