/** What models cost, per million tokens: overrides, then the dated table for the providers that there are. */
import { useState } from "react";
import { $api, api, type Schemas } from "../../api";
import { num, usd, when } from "../../fmt";
import { Action } from "../../ui/action";
import { CallForm } from "../../ui/call-form";
import { Field, Input } from "../../ui/controls";
import { Panel } from "../../ui/page";
import { Empty, Loaded } from "../../ui/state";
import { type Column, Table } from "../../ui/table";
import { useTyped } from "../../url";

type Price = Schemas["ModelPrice"];

export function Prices() {
  const [text, setText, wanted] = useTyped("find");
  const query = $api.useQuery("get", "/api/v1/prices");
  return (
    <>
      <search className="filters">
        <Field label="Provider or model">
          <Input data-search value={text} onChange={(event) => setText(event.target.value)} />
        </Field>
      </search>
      <Loaded query={query} what="the prices" rows={6}>
        {(page) => {
          const rows = page.data.filter((each) =>
            `${each.provider}/${each.model}`.toLowerCase().includes(wanted.toLowerCase()),
          );
          return (
            <>
              <Table
                caption="Prices"
                columns={PRICES}
                rows={rows.slice(0, MOST)}
                rowKey={(each) => `${each.provider}/${each.model}`}
                empty={
                  <Empty title={wanted ? "No price fits" : "No price yet"}>
                    Prices are those of the providers that there are, and of overrides.
                  </Empty>
                }
              />
              {rows.length > MOST && (
                <p className="small">
                  The first {MOST} of {num(rows.length)}: type more of the name.
                </p>
              )}
            </>
          );
        }}
      </Loaded>
      <Override />
    </>
  );
}

const MOST = 200;

function Override() {
  const [provider, setProvider] = useState("");
  const [model, setModel] = useState("");
  const [input, setInput] = useState("");
  const [cached, setCached] = useState("");
  const [output, setOutput] = useState("");
  const micro = (text: string) => Math.round(Number(text) * 1e6);
  const run = () =>
    api.PUT("/api/v1/prices/{provider}/{model}", {
      params: { path: { provider, model } },
      body: {
        input_micro_usd: micro(input),
        cached_input_micro_usd: cached === "" ? null : micro(cached),
        output_micro_usd: micro(output),
      },
    });
  const field = (label: string, value: string, change: (next: string) => void, hint?: string) => (
    <Field label={label} hint={hint}>
      <Input value={value} onChange={(event) => change(event.target.value)} />
    </Field>
  );
  return (
    <CallForm
      call="PUT /api/v1/prices/{provider}/{model}"
      action="Set the price"
      disabled={!provider || !model || input === "" || output === ""}
      run={run}
    >
      <Panel title="Override a price">
        <div className="pair">
          {field("Provider", provider, setProvider, "* is any")}
          {field("Model", model, setModel, "* is any")}
          {field("In, USD per 1 M tokens", input, setInput)}
          {field("In, cached", cached, setCached, "Empty: the same")}
          {field("Out, USD per 1 M tokens", output, setOutput)}
        </div>
      </Panel>
    </CallForm>
  );
}

const PRICES: Column<Price>[] = [
  { id: "provider", label: "Provider", cell: (each) => each.provider, sort: (each) => each.provider },
  { id: "model", label: "Model", cell: (each) => each.model, sort: (each) => each.model },
  {
    id: "in",
    label: "In, per 1 M",
    num: true,
    cell: (each) => usd(each.input_micro_usd / 1e6),
    sort: (each) => each.input_micro_usd,
  },
  { id: "cached", label: "Cached", num: true, cell: (each) => usd(each.cached_input_micro_usd / 1e6) },
  {
    id: "out",
    label: "Out, per 1 M",
    num: true,
    cell: (each) => usd(each.output_micro_usd / 1e6),
    sort: (each) => each.output_micro_usd,
  },
  { id: "source", label: "From", cell: (each) => each.source, sort: (each) => each.source },
  { id: "as_of", label: "As of", num: true, cell: (each) => when(each.as_of).slice(0, 10) },
  {
    id: "do",
    label: "Actions",
    cell: (each) =>
      each.source === "override" && (
        <Action
          call="DELETE /api/v1/prices/{provider}/{model}"
          label="Take back"
          look="quiet"
          confirm={{
            title: `Take the price of ${each.provider}/${each.model} back?`,
            text: "The table holds again.",
          }}
          run={() =>
            api.DELETE("/api/v1/prices/{provider}/{model}", {
              params: { path: { provider: each.provider, model: each.model } },
            })
          }
        />
      ),
  },
];
