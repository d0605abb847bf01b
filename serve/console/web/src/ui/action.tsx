/** A button that calls one route, and is not there for who may not. */
import { useState } from "react";
import type { Route } from "../api";
import { queryClient } from "../api";
import { useMay } from "../session";
import { useAttempt } from "./attempt";
import { Button } from "./controls";
import { Confirm, Refused } from "./dialog";
import { keepFocus } from "./focus";

type Props = {
  call: Route;
  label: string;
  run: () => Promise<unknown>;
  look?: "plain" | "main" | "bad" | "quiet";
  /** Asked before; without it, it runs at once. */
  confirm?: { title: string; text: string; typed?: string };
  disabled?: boolean;
};

export function Action({ call, label, run, look = "plain", confirm, disabled }: Props) {
  const may = useMay(call);
  const [asking, ask] = useState(false);
  const { busy, error, attempt } = useAttempt();
  if (!may) return null;
  const go = async () => {
    await run();
    await queryClient.invalidateQueries();
  };
  const now = async () => {
    const back = keepFocus();
    await attempt(go);
    back();
  };
  return (
    <>
      <Button look={look} disabled={disabled || busy} onClick={() => (confirm ? ask(true) : void now())}>
        {label}
      </Button>
      {error && <Refused error={error} />}
      {asking && confirm && (
        <Confirm
          title={confirm.title}
          action={label}
          typed={confirm.typed}
          bad={look === "bad"}
          run={go}
          close={() => ask(false)}
        >
          <p>{confirm.text}</p>
        </Confirm>
      )}
    </>
  );
}
