/** Data sets: what there is, adding one from files with the rows that are wrong, and making one from traffic. */
import { $api, type Schemas } from "../api";
import { num, when } from "../fmt";
import { useMay } from "../session";
import { Field, Input, Tabs } from "../ui/controls";
import { Page } from "../ui/page";
import { Empty, Loaded } from "../ui/state";
import { type Column, Table } from "../ui/table";
import { useCursor, useParam, useTyped } from "../url";
import { AddSet } from "./data/add";
import { FromTraffic } from "./data/traffic";

type Dataset = Schemas["Dataset"];

export default function Data() {
  const [tab, setTab] = useParam("tab", "sets");
  const mayAdd = useMay("POST /api/v1/datasets");
  const mayTraffic = useMay("POST /api/v1/datasets/from-traffic");
  const tabs: [string, string][] = [["sets", "Data sets"]];
  if (mayAdd) tabs.push(["add", "Add from files"]);
  if (mayTraffic) tabs.push(["traffic", "Make from traffic"]);
  const chosen = tabs.some(([id]) => id === tab) ? tab : "sets";
  return (
    <Page title="Data sets">
      <Tabs label="Data sets" tabs={tabs} chosen={chosen} choose={setTab}>
        {chosen === "sets" && <SetList />}
        {chosen === "add" && <AddSet />}
        {chosen === "traffic" && <FromTraffic />}
      </Tabs>
    </Page>
  );
}

function SetList() {
  const [name, setName, named] = useTyped("name");
  const cursor = useCursor();
  const query = $api.useQuery(
    "get",
    "/api/v1/datasets",
    { params: { query: { limit: 50, name: named || undefined, cursor } } },
    { placeholderData: (before) => before },
  );
  return (
    <>
      <search className="filters">
        <Field label="Name">
          <Input data-search value={name} onChange={(event) => setName(event.target.value)} />
        </Field>
      </search>
      <Loaded query={query} what="the data sets" rows={8}>
        {(page) => (
          <Table
            caption="Versions of data sets, newest first"
            columns={SETS}
            rows={page.data}
            rowKey={(each) => each.id}
            href={(each) => `/data/${each.name}?number=${each.number}`}
            nextCursor={page.next_cursor ?? null}
            busy={query.isPlaceholderData}
            empty={
              named ? (
                <Empty title="No data set is called that">The name is a whole one.</Empty>
              ) : (
                <Empty title="No data set yet">
                  Add one from files, or: <code>raymill dataset add NAME train.jsonl</code>
                </Empty>
              )
            }
          />
        )}
      </Loaded>
    </>
  );
}

const SETS: Column<Dataset>[] = [
  { id: "name", label: "Name", cell: (each) => each.name, sort: (each) => each.name },
  { id: "number", label: "Version", num: true, cell: (each) => each.number, sort: (each) => each.number },
  { id: "purpose", label: "For", cell: (each) => each.purpose, sort: (each) => each.purpose },
  { id: "shape", label: "Shape", cell: (each) => each.shape, sort: (each) => each.shape },
  { id: "format", label: "Format", cell: (each) => each.format },
  {
    id: "train",
    label: "Training rows",
    num: true,
    cell: (each) => num(each.train_rows),
    sort: (each) => each.train_rows,
  },
  {
    id: "test",
    label: "Held-out rows",
    num: true,
    cell: (each) => num(each.test_rows),
    sort: (each) => each.test_rows,
  },
  {
    id: "created",
    label: "Created (UTC)",
    num: true,
    cell: (each) => when(each.created_at),
    sort: (each) => each.created_at,
  },
];
