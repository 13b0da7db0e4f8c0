# The balancer of a hosted set-up (docs/hosted.md). TLS ends at the platform's edge. Built at the repository's root.
ARG HAPROXY_VERSION=3.2
FROM haproxy:${HAPROXY_VERSION}
COPY haproxy/haproxy.cfg /usr/local/etc/haproxy/haproxy.cfg
