/** Code to be reviewed: files, a text, or a patch; with tests of the author, if there are any. */
import { type ChangeEvent, useRef, useState } from "react";
import { useLocation } from "wouter";
import { api, type Schemas } from "../api";
import { bytes } from "../fmt";
import { CallForm } from "../ui/call-form";
import { Button, Field, Input, Select } from "../ui/controls";
import { Panel } from "../ui/page";

type Request = Schemas["SubmissionRequest"];
type Way = "files" | "code" | "patch";

const WAYS: readonly (readonly [Way, string])[] = [
  ["files", "files"],
  ["code", "text"],
  ["patch", "a patch: what it leaves of each file"],
];
const BLANK = { way: "files" as Way, text: "", language: "", comment: "", tests: "", entry: "" };

export function SubmitForm({ close }: { close: () => void }) {
  const [form, setForm] = useState(BLANK);
  const [files, setFiles] = useState<{ name: string; text: string }[]>([]);
  const key = useRef(crypto.randomUUID());
  const [, navigate] = useLocation();
  const set = (change: Partial<typeof BLANK>) => {
    key.current = crypto.randomUUID(); // other code is another submission
    setForm((before) => ({ ...before, ...change }));
  };
  const read = async (event: ChangeEvent<HTMLInputElement>) => {
    const chosen = [...(event.target.files ?? [])];
    const texts = await Promise.all(chosen.map((file) => file.text()));
    key.current = crypto.randomUUID();
    setFiles(chosen.map((file, at) => ({ name: file.name, text: texts[at] ?? "" })));
  };
  const run = async () => {
    const { data } = await api.POST("/code/v1/submissions", {
      body: requestOf(form, files),
      params: { header: { "idempotency-key": key.current } },
    });
    navigate(data ? `/reviews?id=${data.id}` : "/reviews");
  };
  const ready = form.way === "files" ? files.length > 0 : form.text.trim() !== "";
  return (
    <Panel title="Submit code">
      <CallForm
        call="POST /code/v1/submissions"
        action="Submit"
        disabled={!ready}
        run={run}
        more={<Button onClick={close}>Leave it</Button>}
      >
        <Field label="Code is">
          <Select
            value={form.way}
            options={WAYS}
            onChange={(event) => set({ way: event.target.value as Way })}
          />
        </Field>
        {form.way === "files" ? (
          <Field
            label="Files"
            hint={files.map((file) => `${file.name} ${bytes(file.text.length)}`).join(", ")}
          >
            <input className="input" type="file" multiple onChange={(event) => void read(event)} />
          </Field>
        ) : (
          <Field label={form.way === "code" ? "Code" : "Unified diff"}>
            <textarea
              className="input"
              value={form.text}
              onChange={(event) => set({ text: event.target.value })}
            />
          </Field>
        )}
        <div className="pair">
          <Field label="Language" hint="Empty: told by name and content">
            <Input value={form.language} onChange={(event) => set({ language: event.target.value })} />
          </Field>
          <Field label="Comment" hint="What the code is for">
            <Input value={form.comment} onChange={(event) => set({ comment: event.target.value })} />
          </Field>
        </div>
        <details>
          <summary>Tests of the author</summary>
          <div className="stack">
            <Field label="Python tests" hint="def check(candidate): …, run on both versions in the sandbox">
              <textarea
                className="input"
                value={form.tests}
                onChange={(event) => set({ tests: event.target.value })}
              />
            </Field>
            <Field label="Function that is tested">
              <Input value={form.entry} onChange={(event) => set({ entry: event.target.value })} />
            </Field>
          </div>
        </details>
      </CallForm>
    </Panel>
  );
}

function requestOf(form: typeof BLANK, files: { name: string; text: string }[]): Request {
  const code: Partial<Request> =
    form.way === "files" ? { files } : form.way === "code" ? { code: form.text } : { patch: form.text };
  return {
    ...code,
    comment: form.comment,
    language: form.language || null,
    tests: form.tests ? { code: form.tests, entry_point: form.entry } : null,
  };
}
