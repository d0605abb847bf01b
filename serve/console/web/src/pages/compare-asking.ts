/** The state of one question while its answers come: drawn once a frame, however fast they come. */
import { useEffect, useRef, useState } from "react";
import { asError } from "../ui/attempt";
import { ask, type Heard, type Question } from "./compare-stream";

export type Answer = {
  state: "running" | "succeeded" | "failed" | "cancelled";
  text: string;
  refused?: string;
  /** Who answered: provider and model. */
  target?: string;
  tokens?: { prompt: number; completion: number };
  /** Since the question was sent, in milliseconds. */
  firstMs?: number;
  tookMs?: number;
};
export type Asked = { id: string; question: Question; answers: readonly Answer[]; busy: boolean };

export function useAsking() {
  const [asked, setAsked] = useState<Asked | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const running = useRef<AbortController | null>(null);
  useEffect(() => () => running.current?.abort(), []);

  const start = async (question: Question) => {
    running.current?.abort();
    const own = new AbortController();
    running.current = own;
    const id = crypto.randomUUID();
    const began = performance.now();
    const answers: Answer[] = question.models.map(() => ({ state: "running", text: "" }));
    let frame = 0;
    const draw = (busy: boolean) => {
      cancelAnimationFrame(frame);
      frame = 0;
      if (running.current === own)
        setAsked({ id, question, busy, answers: answers.map((each) => ({ ...each })) });
    };
    setError(null);
    draw(true);
    try {
      await ask(id, question, own.signal, (heard) => {
        const answer = answers[heard.index];
        if (answer) take(answer, heard, performance.now() - began);
        frame ||= requestAnimationFrame(() => draw(true));
      });
    } catch (failed) {
      if (!own.signal.aborted) setError(asError(failed));
    }
    for (const answer of answers) {
      if (answer.state === "running") answer.state = own.signal.aborted ? "cancelled" : "failed";
    }
    draw(false);
  };
  const stop = () => running.current?.abort();
  const clear = () => {
    running.current?.abort();
    running.current = null;
    setAsked(null);
    setError(null);
  };
  return { asked, error, start, stop, clear };
}

function take(answer: Answer, heard: Heard, atMs: number) {
  if (heard.kind === "text") {
    answer.firstMs ??= atMs;
    answer.text += heard.text;
  } else if (heard.kind === "usage") {
    answer.tokens = { prompt: heard.prompt, completion: heard.completion };
  } else if (heard.kind === "refused") {
    answer.state = "failed";
    answer.refused = heard.message;
  } else if (answer.state === "running") {
    answer.state = "succeeded";
    answer.target = heard.target;
    answer.tookMs = atMs;
  }
}
