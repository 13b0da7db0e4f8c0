// mqtt.js over WebSocket: connects with every protocol version, and hears what it publishes.
// Usage: node websocket.js URL; what Node finds the package by is NODE_PATH.
const mqtt = require('mqtt')

async function hears (url, options) {
  const client = await mqtt.connectAsync(url, { ...options, reconnectPeriod: 0, rejectUnauthorized: false })
  const heard = new Promise(resolve => client.on('message', (_, message) => resolve(message)))
  const topic = `t/${options.clientId}`
  await client.subscribeAsync(topic, { qos: 1 })
  const payload = Buffer.alloc(300_000, options.clientId)
  await client.publishAsync(topic, payload, { qos: 1 })
  if (!(await heard).equals(payload)) throw new Error('other bytes')
  await client.endAsync()
  console.log(`heard ${options.clientId}`)
}

async function all (url) {
  for (const version of [3, 4, 5]) {
    const protocolId = version === 3 ? 'MQIsdp' : 'MQTT'
    const options = { clientId: `js-${version}`, protocolId, protocolVersion: version }
    if (version === 3) {
      // No subscription: 3.1 differs there.
      await (await mqtt.connectAsync(url, { ...options, reconnectPeriod: 0, rejectUnauthorized: false })).endAsync()
      console.log('heard js-3')
    } else {
      await hears(url, options)
    }
  }
}

all(process.argv[2]).catch(error => { console.error(error); process.exit(1) })
