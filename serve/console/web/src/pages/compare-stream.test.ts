import { expect, test } from "vitest";
import { frames, type Heard, heardIn } from "./compare-stream";

async function heardOf(pieces: string[]): Promise<Heard[]> {
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const piece of pieces) controller.enqueue(encoder.encode(piece));
      controller.close();
    },
  });
  const heard: Heard[] = [];
  for await (const frame of frames(body)) heard.push(...heardIn(frame));
  return heard;
}

test("a comparison is heard model by model, wherever its bytes are cut", async () => {
  const whole = [
    'event: delta\ndata: {"index":1,"model":"b","chunk":{"choices":[{"delta":{"content":"Ja"}}]}}\n\n',
    ": still here\n\n",
    'event: error\ndata: {"index":0,"model":"a","error":{"message":"no such model"}}\n\n',
    'event: delta\ndata: {"index":1,"model":"b","chunk":{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}}\n\n',
    'event: done\ndata: {"index":1,"model":"b","latency_ms":12.5,"target":"twin/b"}\n\nevent: end\ndata: {}\n\n',
  ].join("");
  const expected: Heard[] = [
    { kind: "text", index: 1, text: "Ja" },
    { kind: "refused", index: 0, message: "no such model" },
    { kind: "usage", index: 1, prompt: 9, completion: 1 },
    { kind: "done", index: 1, target: "twin/b" },
  ];
  expect(await heardOf([whole])).toEqual(expected);
  expect(await heardOf(whole.match(/[\s\S]{1,7}/g) ?? [])).toEqual(expected);
});

test("one model's chat is heard as the model at 0", async () => {
  const heard = await heardOf([
    'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n',
    'data: {"choices":[{"delta":{"content":"Grüezi"}}]}\n\ndata: [DONE]\n\n',
  ]);
  expect(heard).toEqual([{ kind: "text", index: 0, text: "Grüezi" }]);
});
