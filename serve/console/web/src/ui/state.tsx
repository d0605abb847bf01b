/** What stands where data would: loading, nothing, refused, failed. Data that is there is never blanked. */
import { type ReactNode, useEffect, useState } from "react";
import { ApiError } from "../api";
import { when } from "../fmt";
import { Button } from "./controls";

/** Skeleton rows, after a moment only: what comes at once does not flicker. */
export function Waiting({ rows = 4 }: { rows?: number }) {
  const [shown, show] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => show(true), 150);
    return () => clearTimeout(timer);
  }, []);
  return (
    <div className="waiting" role="status" aria-label="Loading">
      {shown && Array.from({ length: rows }, (_, at) => at).map((at) => <div key={at} className="bone" />)}
    </div>
  );
}

/** Nothing here: what would stand here, why it does not, the one action. */
export function Empty({
  title,
  children,
  action,
}: {
  title: string;
  children?: ReactNode;
  action?: ReactNode;
}) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children && <div>{children}</div>}
      {action && <div className="actions">{action}</div>}
    </div>
  );
}

export function NoPermission({ error }: { error?: Error }) {
  return (
    <div className="block block-idle" role="note">
      <p>
        <b>⊘ Not for your role.</b> {error?.message ?? "An administrator can give you another one."}
      </p>
    </div>
  );
}

export function Failed({ error, what, retry }: { error: Error; what: string; retry?: () => void }) {
  const id = error instanceof ApiError ? error.requestId : null;
  return (
    <div className="block block-bad" role="alert">
      <p>
        <b>✕ Could not {what.startsWith("to ") ? what.slice(3) : `load ${what}`}.</b> {error.message}
      </p>
      {id && (
        <p className="small">
          Request <code>{id}</code>
        </p>
      )}
      {retry && (
        <div className="actions">
          <Button onClick={retry}>Try again</Button>
        </div>
      )}
    </div>
  );
}

/** A line that stays: what was done, or what is to know. Nothing pops up and goes by itself. */
export function Notice({
  kind = "run",
  children,
}: {
  kind?: "run" | "ok" | "warn" | "bad";
  children: ReactNode;
}) {
  const sign = { run: "ℹ", ok: "✓", warn: "!", bad: "✕" }[kind];
  return (
    <div className={`block block-${kind}`} role={kind === "bad" ? "alert" : "status"}>
      <p>
        <b aria-hidden="true">{sign}</b> {children}
      </p>
    </div>
  );
}

type Loadable<T> = {
  data: T | undefined;
  error: Error | null;
  dataUpdatedAt: number;
  refetch: () => unknown;
};

/** The four states of a query around what shows its data. `what` ends the sentence "Could not load …". */
export function Loaded<T>({
  query,
  what,
  rows,
  children,
}: {
  query: Loadable<T>;
  what: string;
  rows?: number;
  children: (data: T) => ReactNode;
}) {
  const { data, error } = query;
  const retry = () => void query.refetch();
  if (data !== undefined) {
    return (
      <>
        {error && (
          <Notice kind="warn">
            {error.message} What stands here is as of{" "}
            {when(new Date(query.dataUpdatedAt).toISOString(), true)}.
          </Notice>
        )}
        {children(data)}
      </>
    );
  }
  if (error instanceof ApiError && error.status === 403) return <NoPermission error={error} />;
  if (error) return <Failed error={error} what={what} retry={retry} />;
  return <Waiting rows={rows} />;
}
