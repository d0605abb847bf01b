/** One model's answer as it comes, what it cost by the gateway's own record, and what one thinks of it. */
import { useState } from "react";
import { $api, api, type Schemas } from "../api";
import { DASH, duration, num, usd } from "../fmt";
import { useMay } from "../session";
import { asError } from "../ui/attempt";
import { Button, Facts, Field, Pre, StateMark } from "../ui/controls";
import { Confirm, Refused } from "../ui/dialog";
import { Panel } from "../ui/page";
import { Notice } from "../ui/state";
import type { Answer, Asked } from "./compare-asking";
import { recordOf } from "./compare-stream";

/** A record is written a moment after the answer: asked for so often, a second apart. */
const LOOKS = 20;

export function AnswerOf({
  asked,
  index,
  goOn,
}: {
  asked: Asked;
  index: number;
  goOn: (text: string) => void;
}) {
  const name = asked.question.models[index] ?? "";
  const answer = asked.answers[index];
  const over = answer?.state === "succeeded" || answer?.state === "cancelled";
  const requestId = recordOf(asked.id, asked.question, index);
  const query = $api.useQuery(
    "get",
    "/api/v1/usage/records",
    { params: { query: { request_id: requestId, limit: 1 } } },
    {
      enabled: useMay("GET /api/v1/usage/records") && over,
      refetchInterval: ({ state }) =>
        state.data?.data.length || state.dataUpdateCount >= LOOKS ? false : 1000,
    },
  );
  if (!answer) return null;
  const record = query.data?.data[0];
  return (
    <Panel
      title={name}
      actions={
        !asked.busy && answer.state === "succeeded" ? (
          <Button look="quiet" onClick={() => goOn(answer.text)}>
            Go on with this
          </Button>
        ) : undefined
      }
    >
      <AnswerFacts answer={answer} record={record} />
      {answer.refused && <Notice kind="bad">{answer.refused}</Notice>}
      {(answer.text || answer.state === "running") && (
        <Pre label={`Answer of ${name}`}>{answer.text || "…"}</Pre>
      )}
      {record && <Opinion requestId={requestId} name={name} />}
      <p className="small">
        Request <code>{requestId}</code>
      </p>
    </Panel>
  );
}

function AnswerFacts({ answer, record }: { answer: Answer; record: Schemas["UsageRecord"] | undefined }) {
  const seconds = (ms: number | undefined) => (ms === undefined ? DASH : duration(ms / 1000));
  const prompt = record?.prompt_tokens ?? answer.tokens?.prompt;
  const completion = record?.completion_tokens ?? answer.tokens?.completion;
  return (
    <Facts
      of={[
        ["State", <StateMark key="state" state={answer.state} />],
        ["Answered by", answer.target || DASH],
        ["First word", seconds(answer.firstMs)],
        ["Took", seconds(answer.tookMs)],
        ["Tokens in", num(prompt)],
        ["Tokens out", num(completion)],
        ["Cost", record && !record.priced ? "no price" : usd(record && record.cost_micro_usd / 1e6)],
      ]}
    />
  );
}

/** Kept with the request, where data sets can be made of it. Given again, it replaces what was given. */
function Opinion({ requestId, name }: { requestId: string; name: string }) {
  const may = useMay("POST /api/v1/feedback");
  const [score, setScore] = useState<number | null>(null);
  const [correction, setCorrection] = useState("");
  const [comment, setComment] = useState("");
  const [writing, write] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  if (!may) return null;
  const send = async (given: number | null) => {
    await api.POST("/api/v1/feedback", {
      body: { request_id: requestId, score: given, correction: correction || null, comment },
    });
    setScore(given);
  };
  const judge = async (given: number) => {
    setError(null);
    try {
      await send(given);
    } catch (refused) {
      setError(asError(refused));
    }
  };
  return (
    <>
      <fieldset className="actions plain" aria-label={`What you think of the answer of ${name}`}>
        <Button aria-pressed={score === 1} onClick={() => void judge(1)}>
          Good
        </Button>
        <Button aria-pressed={score === -1} onClick={() => void judge(-1)}>
          Bad
        </Button>
        <Button onClick={() => write(true)}>Say more</Button>
      </fieldset>
      {error && <Refused error={error} />}
      {writing && (
        <Confirm
          title={`The answer of ${name}`}
          action="Keep it"
          run={() => send(score)}
          close={() => write(false)}
        >
          <Field label="A better answer" hint="Data sets from traffic take it in place of the model's">
            <textarea
              className="input"
              value={correction}
              onChange={(event) => setCorrection(event.target.value)}
            />
          </Field>
          <Field label="Why">
            <textarea
              className="input"
              value={comment}
              onChange={(event) => setComment(event.target.value)}
            />
          </Field>
        </Confirm>
      )}
    </>
  );
}
