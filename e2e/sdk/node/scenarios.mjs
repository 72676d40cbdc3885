// Runs calls with the official SDKs, exactly as an application would, and prints what came of each.
// Input and output are those of ../python/scenarios.py.
import { createInterface } from "node:readline";
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";

async function openaiCall(client, job, options) {
  const messages = [{ role: "user", content: "hello" }];
  const extra = job.extra ?? {};
  switch (job.api) {
    case "chat": {
      const result = await client.chat.completions.create({ model: job.model, messages, stream: job.stream, ...extra }, options);
      if (!job.stream) return { text: result.choices[0].message.content, usage: Boolean(result.usage) };
      let text = "";
      for await (const chunk of result) text += chunk.choices[0]?.delta?.content ?? "";
      return { text };
    }
    case "responses": {
      const result = await client.responses.create({ model: job.model, input: "hello", stream: job.stream, ...extra }, options);
      if (!job.stream) return { text: result.output_text, usage: Boolean(result.usage) };
      let text = "";
      for await (const event of result) if (event.type === "response.output_text.delta") text += event.delta;
      return { text };
    }
    case "completions": {
      const result = await client.completions.create({ model: job.model, prompt: "hello", ...extra }, options);
      return { text: result.choices[0].text };
    }
    case "embeddings": {
      const result = await client.embeddings.create({ model: job.model, input: "hello", encoding_format: "float" }, options);
      return { text: `embedding of ${result.data[0].embedding.length}` };
    }
    case "models": {
      const models = [];
      for await (const m of client.models.list(options)) models.push(m.id);
      return { models };
    }
  }
  throw new Error(job.api);
}

async function anthropicCall(client, job, options) {
  const messages = [{ role: "user", content: "hello" }];
  const extra = { max_tokens: 50, ...(job.extra ?? {}) };
  switch (job.api) {
    case "messages": {
      if (job.stream) {
        const stream = client.messages.stream({ model: job.model, messages, ...extra }, options);
        return { text: await stream.finalText() };
      }
      const result = await client.messages.create({ model: job.model, messages, ...extra }, options);
      return { text: result.content[0].text, usage: Boolean(result.usage) };
    }
    case "count_tokens": {
      const result = await client.messages.countTokens({ model: job.model, messages }, options);
      return { text: `${result.input_tokens} tokens` };
    }
    case "models": {
      const models = [];
      for await (const m of client.models.list({}, options)) models.push(m.id);
      return { models };
    }
  }
  throw new Error(job.api);
}

async function run(job) {
  let calls = 0;
  const headers = { ...(job.headers ?? {}) };
  if (job.script) headers["x-provider-script"] = job.script;
  const fetch = (...args) => {
    calls++;
    return globalThis.fetch(...args);
  };
  const out = { name: job.name };
  try {
    if (job.sdk === "openai") {
      Object.assign(out, await openaiCall(new OpenAI({ baseURL: job.base + "/v1", apiKey: job.key, fetch }), job, { headers }));
    } else {
      Object.assign(out, await anthropicCall(new Anthropic({ baseURL: job.base, apiKey: job.key, fetch }), job, { headers }));
    }
  } catch (e) {
    if (!(e instanceof OpenAI.APIError) && !(e instanceof Anthropic.APIError)) throw e;
    out.error = e.constructor.name;
    out.status = e.status ?? 0;
    // The OpenAI SDK keeps what is inside "error", the Anthropic SDK the whole body.
    const body = e.error?.error ?? e.error ?? {};
    out.code = body.airgate?.code ?? "";
  }
  out.calls = calls;
  return out;
}

for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(await run(JSON.parse(line))));
