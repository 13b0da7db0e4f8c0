// mqtt.js in a browser: connects to each of the page's ?url=…, hears what it publishes, and posts to /heard what came
// of it.
/* global mqtt, location, fetch */
async function hears (url, clientId, protocolVersion) {
  const client = await mqtt.connectAsync(url, { clientId, protocolVersion, reconnectPeriod: 0 }, false)
  const heard = new Promise(resolve => client.on('message', (_, message) => resolve(message)))
  await client.subscribeAsync(`t/${clientId}`, { qos: 1 })
  const payload = clientId.repeat(20000)
  await client.publishAsync(`t/${clientId}`, payload, { qos: 1 })
  if (new TextDecoder().decode(await heard) !== payload) throw new Error('other bytes')
  await client.endAsync()
  return `heard ${clientId}`
}

async function all () {
  const lines = []
  for (const url of new URLSearchParams(location.search).getAll('url')) {
    for (const version of [4, 5]) {
      const id = `${new URL(url).protocol.slice(0, -1)}-${version}`
      lines.push(await hears(url, id, version).catch(error => `failed ${id}: ${error}`))
    }
  }
  await fetch('/heard', { method: 'POST', body: lines.join('\n') })
}

all()
