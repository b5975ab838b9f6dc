// One use of OpenAI's client for Node: node openai_node.mjs WHAT URL KEY MODEL TEXT.
// Prints one JSON object: the client's `version`, and a `value` or an `error`.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [what, baseURL, apiKey, model, text] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: text }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const city = {
  type: "object",
  properties: { name: { type: "string" }, people: { type: "integer" } },
  required: ["name", "people"],
  additionalProperties: false,
};

const todo = {
  async plain() {
    const chat = await client.chat.completions.create({ model, messages });
    const response = await client.responses.create({ model, input: text });
    return [chat.choices[0].message.content, response.output_text];
  },
  async streamed() {
    const pieces = [];
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true }))
      if (chunk.choices[0]?.delta?.content) pieces.push(chunk.choices[0].delta.content);
    return pieces;
  },
  async tools() {
    const first = await client.chat.completions.create({ model, messages, tools });
    const call = first.choices[0].message;
    const place = JSON.parse(call.tool_calls[0].function.arguments).city;
    messages.push(call, { role: "tool", tool_call_id: call.tool_calls[0].id, content: `sunny in ${place}` });
    return (await client.chat.completions.create({ model, messages, tools })).choices[0].message.content;
  },
  async structured() {
    const response_format = { type: "json_schema", json_schema: { name: "city", strict: true, schema: city } };
    return (await client.chat.completions.parse({ model, messages, response_format })).choices[0].message.parsed;
  },
  async hot() {
    return await client.chat.completions.create({ model, messages, temperature: 3 });
  },
  async streamed_response() {
    const pieces = [];
    for await (const event of await client.responses.create({ model, input: text, stream: true }))
      if (event.type === "response.output_text.delta") pieces.push(event.delta);
    return pieces;
  },
  async embeddings() {
    const reply = await client.embeddings.create({ model, input: ["one", "two"] });
    return reply.data.map((one) => one.embedding.length);
  },
};

const installed = JSON.parse(readFileSync("node_modules/openai/package.json", "utf8"));
const told = { version: installed.version };
try {
  told.value = await todo[what]();
} catch (error) {
  if (!(error instanceof OpenAI.APIError)) throw error;
  told.error = { types: [error.constructor.name, "APIError"], status: error.status ?? null, message: error.message };
}
console.log(JSON.stringify(told));
