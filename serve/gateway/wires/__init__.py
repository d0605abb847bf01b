"""Translations between wires. Pure: no I/O, no HTTP, no clock but for `created` in answers.

Inside the gateway a request and its answer are OpenAI Chat Completions JSON, as dicts. A client may speak
another wire to us, and a target may speak another wire than the client:

    client speaks        request to chat      answer from chat      stream from chat
    Anthropic Messages   anthropic_in         anthropic_reply       anthropic_reply
    OpenAI Responses     responses_in         responses_reply       responses_stream

    target speaks        request from chat    answer to chat        stream to chat
    Anthropic Messages   anthropic_out        anthropic_answer      anthropic_answer
    Google Gemini        gemini_out           gemini_answer         gemini_answer
    Gemini embeddings    gemini_embeddings    gemini_embeddings     -

A stream machine is fed one decoded event or chunk at a time (`feed`), gives what the other side gets for
it, and is asked at the end (`end`) for the rest; `end` raises BadStream when the answer was not whole.
`sse` frames bytes, `usage` counts tokens. What cannot be said on the other wire is refused by name
(`errors.Untranslatable`), unless leaving it out changes nothing that the model says.
"""
