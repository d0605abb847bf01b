/** One prompt to several models at once. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function Compare() {
  return (
    <Page title="Compare">
      <Empty title="No model to ask yet" />
    </Page>
  );
}
