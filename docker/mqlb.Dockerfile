# mqlb as an image. From sources, which takes the build tools along:
#
#   docker build -f docker/mqlb.Dockerfile -t mqlb:local .
#
# From a program that `cargo xtask build` has left in target/release:
#
#   docker build -f docker/mqlb.Dockerfile -t mqlb:local --build-arg FROM=built .

ARG RUST_VERSION=1.95.0
ARG DEBIAN=trixie
# Where the program comes from: "sources" or "built".
ARG FROM=sources

FROM rust:${RUST_VERSION}-${DEBIAN} AS sources
WORKDIR /src
COPY . .
# Installs what it lacks, LLVM and bpf-linker, by itself.
RUN cargo xtask build && cp target/release/mqlb /mqlb

FROM debian:${DEBIAN}-slim AS built
COPY target/release/mqlb /mqlb

FROM ${FROM} AS program

FROM debian:${DEBIAN}-slim
COPY --from=program /mqlb /usr/local/bin/mqlb
# With this one it takes the variables of docs/hosted.md; docker-compose.yml mounts another over it.
COPY mqlb/mqlb.toml /etc/mqlb.toml
ENTRYPOINT ["/usr/local/bin/mqlb"]
CMD ["run", "--config", "/etc/mqlb.toml"]
