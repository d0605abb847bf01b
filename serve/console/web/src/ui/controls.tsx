/** Buttons, fields, facts, tabs, states: native elements with our classes. */
import {
  type ButtonHTMLAttributes,
  cloneElement,
  type InputHTMLAttributes,
  type ReactElement,
  type ReactNode,
  type Ref,
  type SelectHTMLAttributes,
  useId,
  useRef,
} from "react";
import { Link } from "wouter";

type ButtonProps = ButtonHTMLAttributes<HTMLButtonElement> & { look?: "plain" | "main" | "bad" | "quiet" };

export function Button({ look = "plain", className = "", ...rest }: ButtonProps) {
  return <button type="button" {...rest} className={`button button-${look} ${className}`} />;
}

export function ButtonLink({
  href,
  children,
  look = "plain",
}: {
  href: string;
  children: ReactNode;
  look?: string;
}) {
  return (
    <Link href={href} className={`button button-${look}`}>
      {children}
    </Link>
  );
}

/** A label, its control, a hint and what is wrong with it; the control gets the ids. */
export function Field({
  label,
  hint,
  error,
  children,
}: {
  label: string;
  hint?: ReactNode;
  error?: string | null;
  children: ReactElement<InputHTMLAttributes<HTMLElement>>;
}) {
  const id = useId();
  const told = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ") || undefined;
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {cloneElement(children, { id, "aria-describedby": told, "aria-invalid": error ? true : undefined })}
      {hint && (
        <p className="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
      {error && (
        <p className="error" id={`${id}-error`}>
          ✕ {error}
        </p>
      )}
    </div>
  );
}

export function Input(props: InputHTMLAttributes<HTMLInputElement>) {
  return (
    <input autoComplete="off" spellCheck={false} {...props} className={`input ${props.className ?? ""}`} />
  );
}

/** A password or key: never shown, never filled in by what the browser keeps for another. */
export function Secret({
  label,
  hint,
  value,
  change,
  own = false,
}: {
  label: string;
  hint?: string;
  value: string;
  change: (next: string) => void;
  /** The one that one has. */
  own?: boolean;
}) {
  return (
    <Field label={label} hint={hint}>
      <Input
        type="password"
        autoComplete={own ? "current-password" : "new-password"}
        value={value}
        onChange={(event) => change(event.target.value)}
      />
    </Field>
  );
}

export function Select({
  options,
  ...rest
}: SelectHTMLAttributes<HTMLSelectElement> & { options: readonly (string | readonly [string, string])[] }) {
  return (
    <select {...rest} className="input">
      {options.map((each) => {
        const [value, text] = typeof each === "string" ? [each, each] : each;
        return (
          <option key={value} value={value}>
            {text}
          </option>
        );
      })}
    </select>
  );
}

/** Names and values: `<Facts of={[["State", <State … />], …]} />`. */
export function Facts({ of }: { of: readonly (readonly [string, ReactNode])[] }) {
  return (
    <dl className="facts">
      {of.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

const SIGNS: Record<string, [string, string]> = {
  queued: ["○", "idle"],
  pending: ["○", "idle"],
  running: ["▶", "run"],
  starting: ["▶", "run"],
  canary: ["▶", "run"],
  paused: ["‖", "warn"],
  approved: ["✓", "run"],
  succeeded: ["✓", "ok"],
  ready: ["✓", "ok"],
  executed: ["✓", "ok"],
  closed: ["✓", "ok"],
  failed: ["✕", "bad"],
  refused: ["✕", "bad"],
  rejected: ["✕", "bad"],
  open: ["✕", "bad"],
  dead: ["✕", "bad"],
  cancelled: ["⊘", "idle"],
  expired: ["⊘", "idle"],
  aborted: ["⊘", "idle"],
};

/** A state: sign, word and colour. Success is quiet. */
export function StateMark({ state }: { state: string }) {
  const [sign, kind] = SIGNS[state] ?? ["·", "idle"];
  return (
    <span className={`mark mark-${kind}`}>
      <span aria-hidden="true">{sign}</span> {state}
    </span>
  );
}

/** A bar with ten ticks. `share` is from 0 to 1. */
export function Bar({ share, label }: { share: number; label: string }) {
  const percent = Math.round(Math.min(1, Math.max(0, share)) * 100);
  return (
    <div
      className="bar"
      role="progressbar"
      aria-label={label}
      aria-valuenow={percent}
      aria-valuemin={0}
      aria-valuemax={100}
    >
      <div className="bar-done" style={{ width: `${percent}%` }} />
    </div>
  );
}

/** Tabs whose choice is the caller's to keep, in the address most often. */
export function Tabs({
  label,
  tabs,
  chosen,
  choose,
  children,
}: {
  label: string;
  tabs: readonly (readonly [string, string])[];
  chosen: string;
  choose: (id: string) => void;
  children: ReactNode;
}) {
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const move = (by: number) => {
    const at = tabs.findIndex(([name]) => name === chosen);
    const next = tabs[(at + by + tabs.length) % tabs.length];
    if (!next) return;
    choose(next[0]);
    list.current?.querySelector<HTMLElement>(`[data-tab="${next[0]}"]`)?.focus();
  };
  return (
    <>
      <div className="tabs" role="tablist" aria-label={label} ref={list}>
        {tabs.map(([name, text]) => (
          <button
            key={name}
            type="button"
            role="tab"
            data-tab={name}
            id={`${id}-${name}`}
            aria-selected={name === chosen}
            aria-controls={`${id}-panel`}
            tabIndex={name === chosen ? 0 : -1}
            onClick={() => choose(name)}
            onKeyDown={(event) => {
              if (event.key === "ArrowRight") move(1);
              if (event.key === "ArrowLeft") move(-1);
            }}
          >
            {text}
          </button>
        ))}
      </div>
      <div role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${chosen}`}>
        {children}
      </div>
    </>
  );
}

/** Text as it is, in a box that scrolls and can be reached by keyboard. */
export function Pre({
  label,
  children,
  ref,
}: {
  label: string;
  children: ReactNode;
  ref?: Ref<HTMLElement>;
}) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <section className="log" ref={ref} tabIndex={0} aria-label={`${label}, text`}>
      <pre>{children}</pre>
    </section>
  );
}
