# The gateway as a small image: `make image`, or `docker compose up`.

ARG RUST=1.95
ARG DEBIAN=trixie

FROM rust:${RUST}-slim-${DEBIAN} AS build
WORKDIR /src
COPY . .
# The caches outlive the build and are no part of the image; so the binary is copied out of them.
# Stripped: what happened is in the logs, with the source line of a panic; nobody runs a debugger in the container.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --profile dist --locked --bin gateway \
    && strip --strip-debug -o /gateway target/dist/gateway

FROM debian:${DEBIAN}-slim
# Roots for partners' certificates, kept current by the distribution.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /gateway --shell /usr/sbin/nologin gateway \
    && install -d -o gateway -g gateway -m 0700 /data \
    && install -d /gateway/config/network /gateway/templates
COPY --from=build /gateway /usr/local/bin/gateway
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/lead-gateway/

# Relative paths of the configuration (config/, templates/) start here. Both directories are empty: mount your own.
WORKDIR /gateway
USER gateway
# Inside a container "this machine only" would be reachable for nobody; what is published is the operator's choice.
ENV GATEWAY__SERVER__LISTEN=0.0.0.0:8080 \
    GATEWAY__STORE__URL=sqlite:/data
VOLUME /data
EXPOSE 8080

# Bash speaks TCP by itself, so that no HTTP client has to be installed (and patched) for this. It asks whether the
# process lives, not whether it is ready: a gateway that is recovering a long backlog must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]

ENTRYPOINT ["gateway"]
CMD ["serve"]
