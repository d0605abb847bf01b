/** The frame of a page: title, what may be done, and the panels below. */
import { type ReactNode, useEffect } from "react";
import type { Route } from "../api";
import { useMay } from "../session";
import { NoPermission } from "./state";

/** With `may`, only who may call that route sees the page; others are told. */
export function Page({
  title,
  actions,
  may,
  children,
}: {
  title: string;
  actions?: ReactNode;
  may?: Route;
  children: ReactNode;
}) {
  const allowed = useMay(may ?? "GET /api/v1/access");
  useEffect(() => {
    document.title = `${title} · Raymill`;
  }, [title]);
  return (
    <>
      <header className="page-head">
        <h1 tabIndex={-1}>{title}</h1>
        {allowed && actions && <div className="actions">{actions}</div>}
      </header>
      {allowed ? children : <NoPermission />}
    </>
  );
}

export function Panel({
  title,
  actions,
  children,
}: {
  title: string;
  actions?: ReactNode;
  children: ReactNode;
}) {
  return (
    <section className="panel" aria-label={title}>
      <header className="panel-head">
        <h2>{title}</h2>
        {actions && <div className="actions">{actions}</div>}
      </header>
      {children}
    </section>
  );
}

/** Shows its children to who may call that route. */
export function May({ call, children }: { call: Route; children: ReactNode }) {
  return useMay(call) ? children : null;
}
