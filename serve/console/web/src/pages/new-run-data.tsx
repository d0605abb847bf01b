/** Which registered data set, and its first rows. */
import { $api } from "../api";
import { Input, Pre, Select } from "../ui/controls";
import { Panel } from "../ui/page";
import { Empty, Loaded } from "../ui/state";

export function SetChoice({
  value,
  change,
  ...rest
}: {
  value: string;
  change: (next: string) => void;
  id?: string;
}) {
  const query = $api.useQuery("get", "/api/v1/datasets", { params: { query: { limit: 200 } } });
  const names = [...new Set((query.data?.data ?? []).map((each) => each.name))];
  if (query.data && names.length === 0) {
    return <Input {...rest} value={value} disabled placeholder="No data set is registered yet" />;
  }
  return (
    <Select
      {...rest}
      name="set"
      value={value}
      options={[["", "choose"], ...names]}
      onChange={(event) => change(event.target.value)}
    />
  );
}

const ROWS = 3;

export function SetPreview({ name }: { name: string }) {
  const query = $api.useQuery("get", "/api/v1/datasets/{name}/rows", {
    params: { path: { name }, query: { limit: ROWS } },
  });
  return (
    <Panel title={`First rows of ${name}`}>
      <Loaded query={query} what={`rows of ${name}`}>
        {(page) =>
          page.data.length === 0 ? (
            <Empty title="It has no training rows" />
          ) : (
            <Pre label={`First rows of ${name}`}>
              {page.data.map((each) => JSON.stringify(each.row, null, 1)).join("\n")}
            </Pre>
          )
        }
      </Loaded>
    </Panel>
  );
}
