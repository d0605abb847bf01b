/** What waits for a decision, and what was decided. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function Promotions() {
  return (
    <Page title="Promotions">
      <Empty title="No promotion yet" />
    </Page>
  );
}
