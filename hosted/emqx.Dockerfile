# An EMQX node of a hosted set-up (docs/hosted.md), for a private network with IPv6 only. Built at the
# repository's root.
ARG EMQX_VERSION=5.8.9
FROM emqx/emqx:${EMQX_VERSION}
# EMQX reads values as HOCON, hence the quotes within. [::] takes IPv4 too, where there is any.
ENV EMQX_CLUSTER__DISCOVERY_STRATEGY=static \
    EMQX_CLUSTER__PROTO_DIST=inet6_tcp \
    EMQX_RPC__LISTEN_ADDRESS=:: \
    EMQX_LISTENERS__TCP__DEFAULT__BIND='"[::]:1883"' \
    EMQX_LISTENERS__WS__DEFAULT__BIND='"[::]:8083"' \
    EMQX_DASHBOARD__LISTENERS__HTTP__BIND='"[::]:18083"' \
    EMQX_LISTENERS__SSL__DEFAULT__ENABLE=false \
    EMQX_LISTENERS__WSS__DEFAULT__ENABLE=false
COPY hosted/start-emqx.sh /usr/bin/start-emqx.sh
# Platforms mount volumes as root's: start-emqx.sh hands them to EMQX's user and goes on as that one.
USER root
ENTRYPOINT ["/usr/bin/start-emqx.sh"]
CMD ["/opt/emqx/bin/emqx", "foreground"]
