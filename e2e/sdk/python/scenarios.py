"""Runs calls with the official SDKs, exactly as an application would, and prints what came of each.

Standard input: one JSON object a line: {"name", "sdk", "base", "key", "api", "model", "stream", "script", "headers", "extra"}.
Standard output: one JSON object a line: {"name", "text", "usage", "error", "status", "code", "calls", "models"}.
"""

import json
import sys

import anthropic
import openai


def counting_client(sdk, calls):
    return sdk.DefaultHttpxClient(event_hooks={"request": [lambda request: calls.append(request.url.path)]}, timeout=60)


def openai_call(client, job, headers):
    messages = [{"role": "user", "content": "hello"}]
    extra = job.get("extra", {})
    api = job["api"]
    if api == "chat":
        result = client.chat.completions.create(model=job["model"], messages=messages, stream=job["stream"], extra_headers=headers, **extra)
        if not job["stream"]:
            return {"text": result.choices[0].message.content, "usage": result.usage is not None}
        text = ""
        for chunk in result:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
        return {"text": text}
    if api == "responses":
        result = client.responses.create(model=job["model"], input="hello", stream=job["stream"], extra_headers=headers, **extra)
        if not job["stream"]:
            return {"text": result.output_text, "usage": result.usage is not None}
        text = ""
        for event in result:
            if event.type == "response.output_text.delta":
                text += event.delta
        return {"text": text}
    if api == "completions":
        result = client.completions.create(model=job["model"], prompt="hello", extra_headers=headers, **extra)
        return {"text": result.choices[0].text}
    if api == "embeddings":
        result = client.embeddings.create(model=job["model"], input="hello", encoding_format="float", extra_headers=headers)
        return {"text": "embedding of %d" % len(result.data[0].embedding)}
    if api == "models":
        return {"models": [m.id for m in client.models.list(extra_headers=headers)]}
    raise ValueError(api)


def anthropic_call(client, job, headers):
    messages = [{"role": "user", "content": "hello"}]
    extra = {"max_tokens": 50, **job.get("extra", {})}
    api = job["api"]
    if api == "messages":
        if job["stream"]:
            with client.messages.stream(model=job["model"], messages=messages, extra_headers=headers, **extra) as stream:
                return {"text": "".join(stream.text_stream)}
        result = client.messages.create(model=job["model"], messages=messages, extra_headers=headers, **extra)
        return {"text": result.content[0].text, "usage": result.usage is not None}
    if api == "count_tokens":
        result = client.messages.count_tokens(model=job["model"], messages=messages, extra_headers=headers)
        return {"text": "%d tokens" % result.input_tokens}
    if api == "models":
        return {"models": [m.id for m in client.models.list(extra_headers=headers)]}
    raise ValueError(api)


def run(job):
    calls = []
    headers = dict(job.get("headers", {}))
    if job.get("script"):
        headers["x-provider-script"] = job["script"]
    out = {"name": job["name"]}
    try:
        if job["sdk"] == "openai":
            client = openai.OpenAI(base_url=job["base"] + "/v1", api_key=job["key"], http_client=counting_client(openai, calls))
            out.update(openai_call(client, job, headers))
        else:
            client = anthropic.Anthropic(base_url=job["base"], api_key=job["key"], http_client=counting_client(anthropic, calls))
            out.update(anthropic_call(client, job, headers))
    except (openai.APIError, anthropic.APIError) as e:
        out["error"] = type(e).__name__
        out["status"] = getattr(e, "status_code", 0)
        body = e.body if isinstance(e.body, dict) else {}
        body = body.get("error", body)
        out["code"] = body.get("airgate", {}).get("code", "")
    out["calls"] = len(calls)
    return out


for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
