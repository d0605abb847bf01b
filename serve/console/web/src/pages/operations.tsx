/** Queues, dead letters, audit log, health. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function Operations() {
  return (
    <Page title="Operations">
      <Empty title="Nothing to look after" />
    </Page>
  );
}
