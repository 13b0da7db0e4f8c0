#!/bin/sh
# Starts an EMQX node from the variables that all services share, and EMQX_HOST, which says which node it is.
set -eu

for name in EMQX_HOST EMQX1_HOST EMQX2_HOST EMQX3_HOST EMQX_NODE__COOKIE EMQX_DASHBOARD__DEFAULT_PASSWORD; do
    eval "value=\${$name:-}"
    if [ -z "$value" ]; then
        echo "start-emqx.sh: $name is not set: see docs/hosted.md" >&2
        exit 2
    fi
done
case "$EMQX_HOST" in
    "$EMQX1_HOST" | "$EMQX2_HOST" | "$EMQX3_HOST") ;;
    *)
        echo "start-emqx.sh: EMQX_HOST is $EMQX_HOST, which is none of EMQX1_HOST, EMQX2_HOST and EMQX3_HOST" >&2
        exit 2
        ;;
esac
export EMQX_NODE_NAME="emqx@$EMQX_HOST"
export EMQX_CLUSTER__STATIC__SEEDS="[emqx@$EMQX1_HOST,emqx@$EMQX2_HOST,emqx@$EMQX3_HOST]"

if [ "$(id -u)" = 0 ]; then
    mkdir -p /opt/emqx/data /opt/emqx/log
    chown emqx: /opt/emqx/data /opt/emqx/log
    export HOME=/opt/emqx
    exec setpriv --reuid=emqx --regid=emqx --init-groups -- /usr/bin/docker-entrypoint.sh "$@"
fi
exec /usr/bin/docker-entrypoint.sh "$@"
