/** Models, versions, lineage, files, aliases. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function Registry() {
  return (
    <Page title="Registry">
      <Empty title="No model yet" />
    </Page>
  );
}
