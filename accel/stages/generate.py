"""An answer in a model's own words. Guarantee: it cites what it was given, or the extract stands.

Any server that speaks OpenAI's chat completions, by its URL (llama.cpp, Ollama, vLLM …). It is asked to
answer from the cited passages only. An answer that fails to come, or cites nothing that was given, is
thrown away: the extractive answer stays, with a note that says why. No key is sent unless one is given,
and none is ever part of a message.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from accel.core.errors import SettingsError
from accel.stages.answer import Answered

_SYSTEM = (
    "Answer the question from the numbered passages only. After each sentence name the passage it "
    "rests on, like [1]. If they do not answer the question, say so."
)
_MARK = re.compile(r"\[(\d+)\]")
_MAX_PASSAGE_CHARS = 4000
_MAX_ANSWER_CHARS = 20_000


def generate(
    question: str,
    extract: Answered,
    url: str,
    *,
    model: str = "",
    key: str = "",
    timeout_s: float = 60.0,
    max_tokens: int = 400,
    transport: Any = None,
) -> Answered:
    """``extract`` rewritten by the model behind ``url`` ("http://127.0.0.1:8080/v1").

    Where nothing was found nothing is asked. timeout_s: seconds for the whole answer. transport: an
    httpx transport, for tests. Raises SettingsError when ``url`` is not an http(s) URL; any failure of
    the server gives ``extract`` back with a note.
    """
    import httpx

    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"the generator's URL must begin with http:// or https://, not {parts.scheme!r}.")
    if not extract.found:
        return extract
    passages = "\n\n".join(
        f"[{c.number}] {c.name}\n{c.text[:_MAX_PASSAGE_CHARS]}" for c in extract.citations
    )
    body = {
        "model": model or "default",
        "temperature": 0,
        "max_tokens": max_tokens,
        "messages": [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": f"{passages}\n\nQuestion: {question}"},
        ],
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(timeout=timeout_s, transport=transport, trust_env=False) as client:
            reply = client.post(f"{url.rstrip('/')}/chat/completions", json=body, headers=headers)
            reply.raise_for_status()
            text = reply.json()["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise TypeError("no text")
    except httpx.HTTPStatusError as bad:
        return _kept(extract, f"answered {bad.response.status_code}")
    except httpx.TimeoutException:
        return _kept(extract, f"did not answer within {timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as bad:
        return _kept(extract, f"could not be reached ({type(bad).__name__})")
    except (ValueError, KeyError, IndexError, TypeError):
        return _kept(extract, "sent something that is not a chat completion")
    text = text.strip()[:_MAX_ANSWER_CHARS]
    cited = {int(n) for n in _MARK.findall(text)}
    given = {c.number for c in extract.citations}
    if not text or not cited or not cited <= given:
        return _kept(extract, "cited nothing that it was given" if not cited else "cited what is not there")
    kept = tuple(c for c in extract.citations if c.number in cited)
    return replace(extract, text=text, citations=kept, written_by=model or "generator")


def _kept(extract: Answered, why: str) -> Answered:
    return replace(extract, note=f"The generator {why}; this is the extractive answer.")
