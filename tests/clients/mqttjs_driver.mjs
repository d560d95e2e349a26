// One connection of mqtt.js for tests/tests/clients/scripted.rs: a command per line of input, an event
// per line of output, both JSON, payloads in hexadecimal. It executes commands and checks nothing; it
// ends when its input ends.
//
// usage: node mqttjs.mjs DIRECTORY-WITH-NODE_MODULES

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { join, resolve } from 'node:path';

const require = createRequire(join(resolve(process.argv[2]), 'package.json'));
const mqtt = require('mqtt');

const PROTOCOLS = {
  '3.1': { protocolId: 'MQIsdp', protocolVersion: 3 },
  '3.1.1': { protocolId: 'MQTT', protocolVersion: 4 },
  '5': { protocolId: 'MQTT', protocolVersion: 5 },
};

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const payload = (hex) => Buffer.from(hex, 'hex');

let client;
let version;

const commands = {
  connect(command) {
    version = command.version;
    const options = {
      ...PROTOCOLS[version],
      clientId: command.client_id,
      clean: command.clean,
      reconnectPeriod: command.comes_back ? 50 : 0,
    };
    if (command.will) options.will = { ...command.will, payload: payload(command.will.payload) };
    if (command.expiry_s !== null && version === '5') {
      options.properties = { sessionExpiryInterval: command.expiry_s };
    }
    if (command.tls) {
      options.ca = readFileSync(command.tls.authority);
      options.cert = readFileSync(command.tls.certificate);
      options.key = readFileSync(command.tls.key);
    }
    const scheme = command.path ? (command.tls ? 'wss' : 'ws') : (command.tls ? 'mqtts' : 'mqtt');
    return new Promise((done, failed) => {
      client = mqtt.connect(`${scheme}://127.0.0.1:${command.port}${command.path ?? ''}`, options);
      client.on('message', (topic, body, packet) => {
        say({ event: 'message', topic, payload: body.toString('hex'), qos: packet.qos, retain: packet.retain });
      });
      client.once('connect', (connack) => done({ event: 'connected', session_present: connack.sessionPresent }));
      // Later errors show by their effects; without a listener they would end the program.
      client.on('error', failed);
      client.once('close', () => failed(new Error('the connection was closed')));
    });
  },

  async subscribe(command) {
    const [granted] = await client.subscribeAsync(command.filter, { qos: command.qos });
    return { event: 'subscribed', granted: granted.qos };
  },

  async publish(command) {
    await client.publishAsync(command.topic, payload(command.payload), { qos: command.qos, retain: command.retain });
    return { event: 'published' };
  },

  async disconnect() {
    await client.endAsync();
    return { event: 'disconnected' };
  },
};

say({ event: 'ready', version: require('mqtt/package.json').version });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    say(await commands[command.do](command));
  } catch (error) {
    say({ event: 'refused', error: error.message });
  }
}
process.exit(0);
