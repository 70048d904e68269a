// Node: its http, and ws for WebSockets; without compression.
const crypto = require("node:crypto");
const http = require("node:http");
const { WebSocketServer } = require("ws");

const epoch = crypto.randomBytes(4).toString("hex");
let sequence = 1;
let waiting = [];
const streams = new Set();
const signal = () => `{"cursor":"${epoch}-${sequence}"}`;
const reading = () =>
  `{"cursor":"${epoch}-${sequence}","changed_at":1790000000.123456,"value":{"number":1}}`;

function respond(response, status, body) {
  response.writeHead(status, {
    "Content-Type": "application/json",
    "Content-Length": Buffer.byteLength(body),
  });
  response.end(body);
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (request.method === "POST") {
    request.resume().on("end", () => {
      sequence += 1;
      for (const client of sockets.clients) client.send(signal());
      const event = `id: ${epoch}-${sequence}\ndata: ${signal()}\n\n`;
      for (const stream of streams) stream.write(event);
      const polls = waiting;
      waiting = [];
      for (const poll of polls) respond(poll, 200, signal());
      respond(response, 201, signal());
    });
  } else if (url.pathname === "/data") {
    respond(response, 200, reading());
  } else if (request.headers.accept === "text/event-stream") {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write("retry: 1000\n\n");
    streams.add(response);
    response.on("close", () => streams.delete(response));
  } else if (url.searchParams.get("after") === `${epoch}-${sequence}`) {
    waiting.push(response);
  } else {
    respond(response, 200, signal());
  }
});
const sockets = new WebSocketServer({ server, path: "/update", perMessageDeflate: false });
server.keepAliveTimeout = server.requestTimeout = 0;
server.listen({ host: "127.0.0.1", port: 0, backlog: 1024 }, () => {
  console.log(`The server is at http://127.0.0.1:${server.address().port} `);
});
