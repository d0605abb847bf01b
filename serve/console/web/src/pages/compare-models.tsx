/** Which models are asked. */
import { useId, useState } from "react";
import { $api } from "../api";
import { Button, Field, Input } from "../ui/controls";
import { keepFocus } from "../ui/focus";
import { Empty, Notice } from "../ui/state";

export const MOST = 4;

/** Those who are asked. Any name that the gateway answers for will do; the list offers those that the service knows. */
export function Models({
  models,
  add,
  drop,
}: {
  models: readonly string[];
  add: (name: string) => void;
  drop: (name: string) => void;
}) {
  const [text, setText] = useState("");
  const id = useId();
  const list = { params: { query: { limit: 200 } } };
  const routes = $api.useQuery("get", "/api/v1/routes", list);
  const presets = $api.useQuery("get", "/api/v1/presets", list);
  const served = $api.useQuery("get", "/api/v1/deployments");
  const known = [
    ...(routes.data?.data ?? []).filter((each) => each.enabled).map((each) => each.name),
    ...(presets.data?.data ?? []).map((each) => each.name),
    ...(served.data?.data ?? []).map((each) => `${each.llm}@${each.alias}`),
  ];
  const nothing = routes.data && presets.data && served.data && known.length === 0;
  const full = models.length >= MOST;
  const take = () => {
    add(text.trim());
    setText("");
  };
  return (
    <>
      {nothing && (
        <Empty title="No model to ask yet">
          Promote a version that is served, add a route, or ask a provider's model by its name,{" "}
          <code>provider/model</code>.
        </Empty>
      )}
      <div className="filters">
        <Field label="Model">
          <Input
            list={id}
            value={text}
            disabled={full}
            onChange={(event) => setText(event.target.value)}
            onKeyDown={(event) => {
              if (event.key !== "Enter") return;
              event.preventDefault();
              take();
            }}
          />
        </Field>
        <datalist id={id}>
          {known.map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
        <Button disabled={full || !text.trim()} onClick={take}>
          Add
        </Button>
      </div>
      {models.length === 0 ? (
        <Notice>
          Up to {MOST} models are asked at once. Such as support-triage, support-triage@3 or provider/model.
        </Notice>
      ) : (
        <ul className="actions" aria-label="Models that are asked">
          {models.map((name) => (
            <li key={name}>
              <Button
                aria-label={`Leave out ${name}`}
                onClick={() => {
                  const back = keepFocus();
                  drop(name);
                  back();
                }}
              >
                {name} <span aria-hidden="true">✕</span>
              </Button>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}
