/** A data set from files of this computer or of the service's machine: sent with progress, checked, registered. */
import { useRef, useState } from "react";
import { api, type Schemas } from "../../api";
import { bytes, num } from "../../fmt";
import { asError, stopped } from "../../ui/attempt";
import { CallForm, Tick } from "../../ui/call-form";
import { Bar, Button, Field, Input, Select } from "../../ui/controls";
import { Refused } from "../../ui/dialog";
import { Panel } from "../../ui/page";
import { Outcome } from "./outcome";
import { type Progress, upload } from "./upload";

type Source = { file: File | null; path: string };
const NOTHING: Source = { file: null, path: "" };
const FORMATS = ["messages", "sharegpt", "alpaca", "completion", "preference", "kto", "text"] as const;
const DUPLICATES = [
  ["keep", "keep them"],
  ["drop_exact", "drop those that are the same"],
  ["drop_near", "drop those that are nearly the same"],
] as const;

export function AddSet() {
  const [name, setName] = useState("");
  const [from, setFrom] = useState<"computer" | "machine">("computer");
  const [train, setTrain] = useState(NOTHING);
  const [test, setTest] = useState(NOTHING);
  const [share, setShare] = useState("");
  const [purpose, setPurpose] = useState<"training" | "evaluation">("training");
  const [format, setFormat] = useState("");
  const [duplicates, setDuplicates] = useState<(typeof DUPLICATES)[number][0]>("keep");
  const [allowBad, setAllowBad] = useState(false);
  const [progress, tell] = useState<Progress | null>(null);
  const [job, setJob] = useState<{ id: string; title: string } | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const sending = useRef<AbortController | null>(null);

  const located = async (source: Source): Promise<string | null> => {
    if (from === "machine") return source.path.trim() || null;
    if (!source.file) return null;
    const control = new AbortController();
    sending.current = control;
    try {
      return `upload:${(await upload(source.file, tell, control.signal)).id}`;
    } finally {
      sending.current = null;
      tell(null);
    }
  };
  const asked = async (): Promise<Schemas["CheckRequest"]> => ({
    train: await located(train),
    test: purpose === "training" ? await located(test) : null,
    split: purpose === "training" && share ? { test: Number(share), seed: 0 } : null,
    format: FORMATS.find((each) => each === format) ?? null,
    purpose,
    duplicates,
    allow_bad_rows: allowBad,
  });
  const check = async () => {
    setError(null);
    try {
      const { data } = await api.POST("/api/v1/datasets/validate", { body: await asked() });
      if (data) setJob({ id: data.id, title: "Check" });
    } catch (refused) {
      if (stopped(refused)) return;
      setError(asError(refused));
    }
  };
  const register = async () => {
    const { data } = await api.POST("/api/v1/datasets", { body: { ...(await asked()), name } });
    const made = data?.jobs?.at(-1);
    if (made) setJob({ id: made.id, title: `Registration of ${name}` });
  };
  const ready = from === "computer" ? train.file !== null : train.path.trim() !== "";
  const source = (label: string, value: Source, change: (next: Source) => void, hint: string) =>
    from === "computer" ? (
      <Field label={label} hint={hint}>
        <input
          type="file"
          className="input"
          accept=".jsonl,.json,.csv,.parquet,.txt,.gz"
          onChange={(event) => change({ file: event.target.files?.[0] ?? null, path: "" })}
        />
      </Field>
    ) : (
      <Field label={label} hint={hint}>
        <Input value={value.path} onChange={(event) => change({ file: null, path: event.target.value })} />
      </Field>
    );

  return (
    <div className="split grid">
      <Panel title="New version of a data set">
        <CallForm
          call="POST /api/v1/datasets"
          action="Register"
          disabled={!ready || !name || progress !== null}
          run={register}
          more={
            <Button disabled={!ready || progress !== null} onClick={() => void check()}>
              Check only
            </Button>
          }
        >
          <div className="pair">
            <Field label="Name" hint="Lower case; the next version of one that is there">
              <Input value={name} onChange={(event) => setName(event.target.value)} />
            </Field>
            <Field label="For">
              <Select
                value={purpose}
                options={["training", "evaluation"]}
                onChange={(event) => setPurpose(event.target.value as typeof purpose)}
              />
            </Field>
            <Field label="Files are on">
              <Select
                value={from}
                options={[
                  ["computer", "this computer"],
                  ["machine", "the service's machine"],
                ]}
                onChange={(event) => setFrom(event.target.value as typeof from)}
              />
            </Field>
          </div>
          {source("Rows", train, setTrain, "jsonl, json, csv, parquet or txt")}
          {purpose === "training" && (
            <div className="pair">
              {source("Held-out rows", test, setTest, "Or hold a share of the rows out")}
              <Field label="Share held out" hint="Such as 0.1; empty: none">
                <Input inputMode="decimal" value={share} onChange={(event) => setShare(event.target.value)} />
              </Field>
            </div>
          )}
          <div className="pair">
            <Field label="Format">
              <Select
                value={format}
                options={[["", "as the first good row"], ...FORMATS]}
                onChange={(event) => setFormat(event.target.value)}
              />
            </Field>
            <Field label="Rows that are there twice">
              <Select
                value={duplicates}
                options={DUPLICATES}
                onChange={(event) => setDuplicates(event.target.value as typeof duplicates)}
              />
            </Field>
          </div>
          <Tick label="Leave bad rows out, and say so" value={allowBad} change={setAllowBad} />
          {progress && <Sending progress={progress} stop={() => sending.current?.abort()} />}
          {error && <Refused error={error} />}
        </CallForm>
      </Panel>
      {job && <Outcome jobId={job.id} title={job.title} />}
    </div>
  );
}

function Sending({ progress, stop }: { progress: Progress; stop: () => void }) {
  const share = progress.size ? progress.done / progress.size : 1;
  const what = progress.phase === "read" ? "Digest" : "Sent";
  return (
    <>
      <Bar share={share} label={`${what} of the file`} />
      <div className="actions">
        <span className="mono">
          {what}: {bytes(progress.done)} of {bytes(progress.size)}, {num(share * 100)} %
        </span>
        <Button onClick={stop}>Stop</Button>
      </div>
      <p className="small">What has arrived stays: the same file goes on from there.</p>
    </>
  );
}
