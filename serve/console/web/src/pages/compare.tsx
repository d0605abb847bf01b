/** One prompt to up to four models at once, their answers side by side as they come. */
import { type FormEvent, type KeyboardEvent, useRef, useState } from "react";
import { save } from "../save";
import { Button, Field, Input, Pre } from "../ui/controls";
import { Refused } from "../ui/dialog";
import { Page, Panel } from "../ui/page";
import { useParam } from "../url";
import { AnswerOf } from "./compare-answer";
import { useAsking } from "./compare-asking";
import { MOST, Models } from "./compare-models";
import { Presets } from "./compare-presets";
import type { Message } from "./compare-stream";

export default function Compare() {
  return (
    <Page title="Compare" may="POST /api/v1/browser/key">
      <Asking />
    </Page>
  );
}

/** A row as data sets take it (`raymill dataset add`). The service keeps no conversation: the file is the person's. */
function keep(system: string, before: readonly Message[]) {
  const first: Message[] = system ? [{ role: "system", content: system }] : [];
  save("conversation.jsonl", `${JSON.stringify({ messages: [...first, ...before] })}\n`, "application/jsonl");
}

function Asking() {
  const [named, setNamed] = useParam("models");
  const models = named.split(",").filter(Boolean);
  const [prompt, setPrompt] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  const [system, setSystem] = useState("");
  const [temperature, setTemperature] = useState("");
  const [longest, setLongest] = useState("");
  const [before, setBefore] = useState<Message[]>([]);
  const { asked, error, start, stop, clear } = useAsking();
  const params = {
    ...(temperature === "" ? {} : { temperature: Number(temperature) }),
    ...(longest === "" ? {} : { max_tokens: Number(longest) }),
  };
  const wrong = {
    temperature: Number.isNaN(Number(temperature)) ? "a number, such as 0.7" : null,
    longest: longest === "" || /^[1-9]\d*$/.test(longest) ? null : "a whole number, such as 500",
  };
  const ready = models.length > 0 && prompt.trim() !== "" && !wrong.temperature && !wrong.longest;
  const add = (name: string) => {
    if (name && !name.includes(",") && !models.includes(name) && models.length < MOST) {
      setNamed([...models, name].join(","));
    }
  };
  const submit = (event?: FormEvent) => {
    event?.preventDefault();
    if (!ready || asked?.busy) return;
    const first: Message[] = system ? [{ role: "system", content: system }] : [];
    void start({ models, params, messages: [...first, ...before, { role: "user", content: prompt }] });
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
  };
  const goOn = (text: string) => {
    const question = asked?.question.messages.at(-1);
    if (!question) return;
    setBefore([...before, question, { role: "assistant", content: text }]);
    setPrompt("");
    clear();
    field.current?.focus();
  };
  return (
    <>
      <form onSubmit={submit}>
        <Models
          models={models}
          add={add}
          drop={(name) => setNamed(models.filter((one) => one !== name).join(","))}
        />
        {before.length > 0 && (
          <Panel
            title="So far"
            actions={
              <>
                <Button look="quiet" onClick={() => keep(system, before)}>
                  Keep as a conversation
                </Button>
                <Button look="quiet" onClick={() => setBefore([])}>
                  Begin anew
                </Button>
              </>
            }
          >
            <Pre label="What was said so far">
              {before.map((each) => `${each.role}: ${each.content}`).join("\n\n")}
            </Pre>
          </Panel>
        )}
        <Field label="Prompt" hint="Ctrl Enter asks">
          <textarea
            ref={field}
            className="input"
            data-search
            value={prompt}
            onChange={(event) => setPrompt(event.target.value)}
            onKeyDown={onKey}
          />
        </Field>
        <details>
          <summary>Settings</summary>
          <div className="stack">
            <Field label="System prompt">
              <textarea
                className="input"
                value={system}
                onChange={(event) => setSystem(event.target.value)}
              />
            </Field>
            <div className="pair">
              <Field label="Temperature" hint="Empty: the model's own" error={wrong.temperature}>
                <Input value={temperature} onChange={(event) => setTemperature(event.target.value)} />
              </Field>
              <Field label="Longest answer" hint="In tokens. Empty: the model's own" error={wrong.longest}>
                <Input value={longest} onChange={(event) => setLongest(event.target.value)} />
              </Field>
            </div>
          </div>
        </details>
        <div className="actions">
          <Button type="submit" look="main" disabled={!ready || asked?.busy}>
            {models.length > 1 ? `Ask all ${models.length}` : "Ask"}
          </Button>
          {asked?.busy && (
            <Button
              onClick={() => {
                stop();
                field.current?.focus();
              }}
            >
              Stop
            </Button>
          )}
        </div>
      </form>
      {error && <Refused error={error} />}
      {asked && (
        <div className="panels">
          {asked.question.models.map((name, index) => (
            <AnswerOf key={`${asked.id} ${name}`} asked={asked} index={index} goOn={goOn} />
          ))}
        </div>
      )}
      <Presets models={models} draft={{ system, params }} take={add} />
    </>
  );
}
