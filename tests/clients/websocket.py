"""paho over WebSocket: hears what it publishes. Usage: websocket.py HOST PORT"""

import sys
import threading

import paho.mqtt.client as mqtt

for version in (mqtt.MQTTv311, mqtt.MQTTv5):
    heard, payload = threading.Event(), b"p" * 200_000
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=f"py-{version}",
        transport="websockets",
        protocol=version,
    )
    client.ws_set_options(path="/mqtt")
    client.on_connect = lambda client, *_: client.subscribe("t/py", 1)
    client.on_subscribe = lambda client, *_: client.publish("t/py", payload, 1)
    client.on_message = lambda _client, _data, message: message.payload == payload and heard.set()
    client.connect(sys.argv[1], int(sys.argv[2]))
    client.loop_start()
    if not heard.wait(60):
        sys.exit("nothing was heard")
    client.disconnect()
    client.loop_stop()
    print(f"heard py-{version}")
