/** Data sets: upload, errors by row, statistics, preview, versions, from traffic. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function Data() {
  return (
    <Page title="Data sets">
      <Empty title="No data set yet" />
    </Page>
  );
}
