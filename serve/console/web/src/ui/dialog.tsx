/** A native dialog: Esc closes it, focus goes back to where it was. */
import { type FormEvent, type ReactNode, useEffect, useId, useRef, useState } from "react";
import { ApiError } from "../api";
import { useAttempt } from "./attempt";
import { Button, Field, Input } from "./controls";
import { keepFocus } from "./focus";
import { Notice } from "./state";

export function Dialog({
  title,
  close,
  children,
}: {
  title: string;
  close: () => void;
  children: ReactNode;
}) {
  const box = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = box.current;
    const back = keepFocus();
    dialog?.showModal();
    return () => {
      dialog?.close();
      back();
    };
  }, []);
  return (
    <dialog ref={box} aria-labelledby={id} onCancel={close} onClose={close}>
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  );
}

/**
 * Asks before something is done, names it and what follows; with `typed`, its name has to be written. What the service
 * refuses is told here, and the dialog stays.
 */
export function Confirm({
  title,
  children,
  action,
  typed,
  bad = false,
  run,
  close,
}: {
  title: string;
  children: ReactNode;
  action: string;
  typed?: string;
  bad?: boolean;
  run: () => Promise<unknown>;
  close: () => void;
}) {
  const [text, setText] = useState("");
  const { busy, error, attempt } = useAttempt();
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (busy || (typed !== undefined && text !== typed)) return;
    if (await attempt(run)) close();
  };
  return (
    <Dialog title={title} close={close}>
      <form onSubmit={submit}>
        <div className="dialog-text">{children}</div>
        {typed !== undefined && (
          <Field label={`Type ${typed} to go on`}>
            <Input value={text} onChange={(event) => setText(event.target.value)} />
          </Field>
        )}
        {error && <Refused error={error} />}
        <div className="actions actions-end">
          <Button onClick={close}>Leave it</Button>
          <Button
            type="submit"
            look={bad ? "bad" : "main"}
            disabled={busy || (typed !== undefined && text !== typed)}
          >
            {action}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

/** What the service said to a call, with the request's id. */
export function Refused({ error }: { error: Error }) {
  const id = error instanceof ApiError ? error.requestId : null;
  return (
    <Notice kind="bad">
      {error.message}
      {id && (
        <span className="small">
          {" "}
          Request <code>{id}</code>
        </span>
      )}
    </Notice>
  );
}
