/** A form that writes a recipe. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function NewRun() {
  return (
    <Page title="New run">
      <Empty title="Nothing to choose from yet" />
    </Page>
  );
}
