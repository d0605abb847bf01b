/** Forms that call one route: once at a time, what the service refused below the fields, and all read again after it. */
import { type FormEvent, type ReactNode, useState } from "react";
import { queryClient, type Route } from "../api";
import { useMay } from "../session";
import { useAttempt } from "./attempt";
import { Button, Field, Input } from "./controls";
import { Confirm, Refused } from "./dialog";
import { keepFocus } from "./focus";

export function CallForm({
  call,
  action,
  run,
  disabled,
  look = "main",
  more,
  children,
}: {
  call: Route;
  action: string;
  run: () => Promise<unknown>;
  disabled?: boolean;
  look?: "plain" | "main" | "bad";
  /** Buttons beside its own. */
  more?: ReactNode;
  children: ReactNode;
}) {
  const may = useMay(call);
  const { busy, error, attempt } = useAttempt();
  if (!may) return null;
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (busy || disabled) return;
    const back = keepFocus();
    await attempt(async () => {
      await run();
      await queryClient.invalidateQueries();
    });
    back();
  };
  return (
    <form onSubmit={submit}>
      {children}
      {error && <Refused error={error} />}
      <div className="actions">
        <Button type="submit" look={look} disabled={busy || disabled}>
          {action}
        </Button>
        {more}
      </div>
    </form>
  );
}

/** A button that gives way to a form, for who may call what the form calls. */
export function Unfolding({
  call,
  label,
  children,
}: {
  call: Route;
  label: string;
  children: (close: () => void) => ReactNode;
}) {
  const may = useMay(call);
  const [open, setOpen] = useState(false);
  if (!may) return null;
  if (open) return children(() => setOpen(false));
  return (
    <div className="actions">
      <Button look="main" onClick={() => setOpen(true)}>
        {label}
      </Button>
    </div>
  );
}

/** A button whose call is made for a reason, which the audit log keeps. */
export function ReasonAction({
  call,
  label,
  title,
  text,
  bad,
  run,
}: {
  call: Route;
  label: string;
  title: string;
  text: string;
  bad?: boolean;
  run: (reason: string | null) => Promise<unknown>;
}) {
  const may = useMay(call);
  const [asking, ask] = useState(false);
  const [reason, setReason] = useState("");
  if (!may) return null;
  const go = async () => {
    await run(reason.trim() || null);
    await queryClient.invalidateQueries();
  };
  return (
    <>
      <Button look={bad ? "bad" : "plain"} onClick={() => ask(true)}>
        {label}
      </Button>
      {asking && (
        <Confirm title={title} action={label} bad={bad} run={go} close={() => ask(false)}>
          <p>{text}</p>
          <Field label="Reason" hint="Kept in the audit log">
            <Input value={reason} onChange={(event) => setReason(event.target.value)} />
          </Field>
        </Confirm>
      )}
    </>
  );
}

/** A box to tick with its words. */
export function Tick({
  label,
  value,
  change,
}: {
  label: string;
  value: boolean;
  change: (next: boolean) => void;
}) {
  return (
    <label className="inline">
      <input type="checkbox" checked={value} onChange={(event) => change(event.target.checked)} /> {label}
    </label>
  );
}
