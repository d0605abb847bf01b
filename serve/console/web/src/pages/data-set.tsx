/** One data set: a version with its statistics, its rows, and what a base's tokenizer makes of them. */
import { Link, useParams, useSearchParams } from "wouter";
import { $api, type Schemas } from "../api";
import { num, when } from "../fmt";
import { Facts, Field, Pre, Select, Tabs } from "../ui/controls";
import { Page, Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useParam } from "../url";
import { Look } from "./data/look";
import { type Statistics, StatisticsPanels } from "./data/statistics";
import { Json } from "./job";

type Row = Schemas["DatasetRow"];
const TABS = [
  ["statistics", "Statistics"],
  ["rows", "Rows"],
  ["look", "Tokens and template"],
  ["provenance", "Provenance"],
] as const;
const BENCHMARK = "benchmark";

export default function DataSet() {
  const { name = "" } = useParams();
  const [tab, setTab] = useParam("tab", "statistics");
  const [asked, setAsked] = useParam("number");
  const number = Number(asked) || undefined;
  const query = $api.useQuery(
    "get",
    "/api/v1/datasets/{name}",
    { params: { path: { name }, query: { number } } },
    { placeholderData: (before) => before },
  );
  const versions = $api.useQuery("get", "/api/v1/datasets", { params: { query: { name, limit: 100 } } });
  const numbers = (versions.data?.data ?? []).map((each) => String(each.number));
  return (
    <Page title={name}>
      <Loaded query={query} what="this data set">
        {(found) => (
          <>
            <div className="filters">
              <Field label="Version">
                <Select
                  value={String(found.number)}
                  options={numbers.includes(String(found.number)) ? numbers : [String(found.number)]}
                  onChange={(event) => setAsked(event.target.value)}
                />
              </Field>
            </div>
            <Facts
              of={[
                ["For", found.purpose],
                ["Shape", found.shape],
                ["Format", found.format],
                ["Training rows", num(found.train_rows)],
                ["Held-out rows", num(found.test_rows)],
                ["Created (UTC)", when(found.created_at)],
                ["Digest", found.digest],
                ["Artifact", found.artifact_name],
              ]}
            />
            <Tabs label="About this data set" tabs={TABS} chosen={tab} choose={setTab}>
              {tab === "statistics" &&
                (Object.keys(found.stats).length > 0 ? (
                  <StatisticsPanels stats={found.stats as Statistics} />
                ) : (
                  <Empty title="It was registered without statistics" />
                ))}
              {tab === "rows" && <Rows name={name} number={found.number} />}
              {tab === "look" &&
                (found.shape === BENCHMARK ? (
                  <Empty title="No template renders a benchmark's rows" />
                ) : (
                  <Look name={name} number={found.number} />
                ))}
              {tab === "provenance" && <Json title="What it was made of" value={found.provenance} />}
            </Tabs>
          </>
        )}
      </Loaded>
      <p className="small">
        <Link href="/data">All data sets</Link>
      </p>
    </Page>
  );
}

function Rows({ name, number }: { name: string; number: number }) {
  const [part, setPart] = useParam("part", "train");
  const [at] = useParam("row");
  const [params] = useSearchParams();
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/datasets/{name}/rows",
    {
      params: {
        path: { name },
        query: { number, part: part === "test" ? "test" : "train", limit: 50, cursor },
      },
    },
    { placeholderData: (before) => before },
  );
  const shown = query.data?.data.find((each) => String(each.number) === at);
  const addressOf = (row: Row) => {
    const next = new URLSearchParams(params);
    next.set("row", String(row.number));
    return `/data/${name}?${next}`;
  };
  return (
    <>
      <div className="filters">
        <Field label="Part">
          <Select
            value={part}
            options={[
              ["train", "training rows"],
              ["test", "held-out rows"],
            ]}
            onChange={(event) => setPart(event.target.value)}
          />
        </Field>
      </div>
      {shown && (
        <Panel title={`Row ${num(shown.number)}`}>
          <Pre label={`Row ${shown.number}`}>{JSON.stringify(shown.row, null, 2)}</Pre>
        </Panel>
      )}
      <Loaded query={query} what="the rows" rows={8}>
        {(page) => (
          <Table
            caption={`Rows of version ${number}`}
            columns={ROWS}
            rows={page.data}
            rowKey={(row) => String(row.number)}
            href={addressOf}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={<Empty title="This part has no rows" />}
          />
        )}
      </Loaded>
    </>
  );
}

const CHARS = 200;

/** The first words that a row has, whatever its shape is. */
function beginningOf(row: Record<string, unknown>): string {
  const text = JSON.stringify(row);
  return text.length > CHARS ? `${text.slice(0, CHARS)}…` : text;
}

const ROWS: Column<Row>[] = [
  { id: "number", label: "Row", cell: (row) => num(row.number) },
  { id: "row", label: "Begins", cell: (row) => <span className="wrap">{beginningOf(row.row)}</span> },
];
